"""Test a checkpoint: print and log the metrics, and save predictions and images on request."""

import argparse
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.fileio import dump

from mmvittm.apis.cli import add_common_arguments, run_tool
from mmvittm.apis.config_errors import FirstStepHook, explain_config_errors
from mmvittm.apis.data import check_data, check_distinct_names, innermost_datasets
from mmvittm.apis.runner import build_runner, config_from_args
from mmvittm.datasets import CheckedDataset
from mmvittm.errors import UserError
from mmvittm.fileio import atomic_path, require_writable
from mmvittm.registry import type_name


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out', metavar='DIR', help='save metrics.json and, for a segmentor, the predicted label maps (PNG) in DIR'
    )
    parser.add_argument('--show-dir', metavar='DIR', help='save the images with their predictions drawn on them in DIR')
    parser.add_argument(
        '--tta',
        action='store_true',
        help="use test-time augmentation: the scales and flips of the config's tta_pipeline",
    )
    add_common_arguments(parser)
    return parser.parse_args()


def draw_predictions(cfg: Config, folder: str) -> None:
    if 'visualization' not in cfg.get('default_hooks', {}):
        raise UserError('--show-dir needs default_hooks.visualization in the config')
    hook = cfg.default_hooks.visualization
    hook.interval = 1  # the defaults are every 50th image (mmseg) and every 5,000th (mmpretrain)
    hook['draw' if type_name(hook).endswith('SegVisualizationHook') else 'enable'] = True
    cfg.visualizer.save_dir = folder


def check_files(dataset: CheckedDataset) -> None:
    """Refuse images that are made in the pipeline: mmseg draws on their files."""
    if 'img_path' not in dataset.get_data_info(0):
        raise UserError(f'the images of a {type(dataset.dataset).__name__} are no files: leave out --show-dir')


def use_tta(cfg: Config) -> None:
    if not cfg.get('tta_pipeline') or not cfg.get('tta_model'):
        raise UserError('--tta needs tta_pipeline and tta_model in the config')
    for dataset in innermost_datasets(cfg.test_dataloader.dataset):
        dataset['pipeline'] = cfg.tta_pipeline
    hooks = cfg.get('custom_hooks') or []
    cfg.custom_hooks = [*hooks, dict(type='mmengine.PrepareTTAHook', tta_cfg=cfg.tta_model, priority='LOWEST')]


def main() -> None:
    args = parse_args()
    cfg = config_from_args(args)
    for folder in filter(None, (args.out, args.show_dir)):
        require_writable(folder)
    cfg.load_from, cfg.resume = args.checkpoint, False
    first_step = FirstStepHook()
    with explain_config_errors(cfg, first_step):
        if args.show_dir:
            draw_predictions(cfg, args.show_dir)
        if args.tta:
            use_tta(cfg)
        evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
        savers = [each for each in evaluators if args.out and type_name(each).endswith('IoUMetric')]
        for evaluator in savers[:1]:  # one of them saves all maps
            evaluator.output_dir = args.out
        check_data(cfg, 'test_dataloader')
        runner = build_runner(cfg, args.allow_pickle, args.verbose)
        if savers or (args.show_dir and 'enable' in cfg.default_hooks.visualization):
            check_distinct_names(runner.test_loop.dataloader.dataset)
        if args.show_dir and 'draw' in cfg.default_hooks.visualization:
            check_files(runner.test_loop.dataloader.dataset)
        runner.register_hook(dict(type='mmvittm.CheckpointFitHook', strict=True))
        runner.register_hook(first_step, 'LOWEST')
        metrics = runner.test()
    if args.out and is_main_process():
        with atomic_path(Path(args.out) / 'metrics.json') as path:
            dump(metrics, path, indent=2)  # unlike json.dump, it takes numpy numbers


if __name__ == '__main__':
    run_tool(main)
