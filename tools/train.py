"""Train a segmentor (MMSegmentation) or a classifier (MMPretrain) from a config."""

import argparse

import torch
from mmengine.config import Config

from mmvittm.apis.cli import add_common_arguments, run_tool
from mmvittm.apis.config_errors import FirstStepHook, explain_config_errors
from mmvittm.apis.data import check_data
from mmvittm.apis.runner import build_runner, config_from_args
from mmvittm.errors import UserError
from mmvittm.registry import type_name


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, such as configs/vittm_upernet_ade20k.py')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from this checkpoint, or without a path (or with "auto") from the last intact one in the work dir',
    )
    parser.add_argument('--amp', action='store_true', help='train in mixed precision (bf16 on the CPU)')
    add_common_arguments(parser)
    return parser.parse_args()


def use_amp(cfg: Config) -> None:
    """Use mmengine's AMP on a GPU, and bf16 on the CPU, where mmengine's AMP does not run."""
    kind = 'AmpOptimWrapper' if torch.cuda.is_available() else 'mmvittm.Bf16OptimWrapper'
    current = type_name(cfg.optim_wrapper) or 'OptimWrapper'
    if current not in ('OptimWrapper', kind, kind.rpartition('.')[2]):
        raise UserError(f'--amp needs optim_wrapper.type=OptimWrapper, but this config has {current}: leave --amp out')
    cfg.optim_wrapper.type = kind


def main() -> None:
    args = parse_args()
    cfg = config_from_args(args)
    first_step = FirstStepHook()
    with explain_config_errors(cfg, first_step):
        if args.amp:
            use_amp(cfg)
        if args.resume == 'auto':
            cfg.resume = 'auto'
        elif args.resume:
            cfg.resume, cfg.load_from = True, args.resume
        check_data(cfg, 'train_dataloader', 'val_dataloader')
        runner = build_runner(cfg, args.allow_pickle, args.verbose)
        runner.register_hook(dict(type='mmvittm.PretrainedReportHook'))
        runner.register_hook(dict(type='mmvittm.CheckpointFitHook', strict=bool(cfg.get('resume'))))
        runner.register_hook(first_step, 'LOWEST')
        runner.train()


if __name__ == '__main__':
    run_tool(main)
