"""Train a segmentor (MMSegmentation) or a classifier (MMPretrain) from a config."""

import argparse

from mmengine.config import Config

from mmvittm.errors import UserError
from mmvittm.utils.cli import run_tool
from mmvittm.utils.data import check_data
from mmvittm.utils.runner import add_common_arguments, build_runner, config_from


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, for example configs/vittm_upernet_ade20k.py')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from a checkpoint: from the latest one in the work dir ("auto", also if no path is given)',
    )
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision (needs a GPU)')
    add_common_arguments(parser)
    return parser.parse_args()


def use_amp(cfg: Config) -> None:
    import torch

    if not torch.cuda.is_available():
        raise UserError("--amp needs a GPU: mmengine's AmpOptimWrapper does not run on the CPU, leave the flag out")
    if cfg.optim_wrapper.type not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise UserError(f'--amp works with optim_wrapper.type OptimWrapper only, not {cfg.optim_wrapper.type}')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def main() -> None:
    args = parse_args()
    cfg = config_from(args)
    if args.amp:
        use_amp(cfg)
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    check_data(cfg, 'train_dataloader', 'val_dataloader')
    runner = build_runner(cfg)
    runner.register_hook(dict(type='mmvittm.CheckpointFitHook', strict=bool(cfg.get('resume'))))
    runner.train()


if __name__ == '__main__':
    run_tool(main)
