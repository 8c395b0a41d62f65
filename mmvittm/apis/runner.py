"""What tools/train.py and tools/test.py share: their arguments, and the way from a config to a runner."""

import argparse
import os
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..fileio import require_writable
from ..weights import use_safe_loading
from .config import build_model, load_config
from .distributed import fit_to_cpu, join_processes
from .resume import newest_checkpoint


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every OpenMMLab tool has."""
    parser.add_argument('--work-dir', help='where logs and checkpoints go (default: work_dirs/<config name>)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config, as key=value; a nested key is written model.backbone.arch=tiny, '
        'a list key="[a,b]"',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes of a distributed run were started',
    )
    parser.add_argument(
        '--allow-pickle',
        action='store_true',
        help='unpickle checkpoints that hold more than weights: they may run any code, use it for files you trust',
    )
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0, help='set by torch.distributed.launch')


def config_from(args: argparse.Namespace) -> Config:
    """Read ``args.config``, with the overrides of the common arguments.

    Raises:
        UserError: If the config cannot be read.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif not cfg.get('work_dir'):
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    if cfg.launcher == 'none':
        cfg.pop('strategy', None)  # one process has nothing to share out
    if not torch.cuda.is_available():
        fit_to_cpu(cfg)
    return cfg


def build_runner(cfg: Config, allow_pickle: bool = False) -> Runner:
    """Build the runner; from here on mmengine reads checkpoints without unpickling code.

    A config that says ``resume`` and not from where goes on from the newest whole checkpoint of its work dir.

    Args:
        cfg (Config): The config, with a ``work_dir``.
        allow_pickle (bool): Let checkpoints run code. Defaults to False.

    Raises:
        UserError: If the work dir cannot be written to, no checkpoint in it is whole, or the model of the config
            cannot be built.
    """
    use_safe_loading(allow_pickle)
    require_writable(cfg.work_dir)
    join_processes(cfg)
    if cfg.get('resume') and not cfg.get('load_from'):
        newest = newest_checkpoint(cfg.work_dir)
        cfg.load_from = str(newest) if newest else None
    try:
        return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    except Exception:
        build_model(cfg)  # says it better, if it is the model
        raise
