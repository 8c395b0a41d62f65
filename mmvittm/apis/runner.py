"""Prepare a config for training or testing, and build mmengine's runner from it."""

import argparse
import logging
import os
from contextlib import nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

from ..engine.checkpoints import newest_checkpoint
from ..engine.hooks.progress_bar_hook import ProgressBarHook
from ..errors import UserError, error_text
from ..fileio import require_writable
from ..weights import use_safe_loading
from .config import load_config
from .config_errors import FirstStepHook, check_metric_arguments, check_optimizer, explain_config_errors
from .distributed import adapt_to_cpu, check_launcher, init_cpu_process_group

# mmengine takes None for these hooks, which removes them, and asserts on any other.
_MMENGINE_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
# Log messages of mmengine that a user cannot act on; a ViTTM freezes the parameters that have no effect on its output.
_HIDDEN_MESSAGES = (
    'is skipped since its requires_grad=False',
    '"FileClient" will be deprecated in future',
    '"HardDiskBackend" is the alias of "LocalBackend"',
    'The prefix is not set in metric class',
    '`self.param_schedulers` is None, so skip saving parameter schedulers',
)


def config_from_args(args: argparse.Namespace) -> Config:
    """Read ``args.config`` and apply the arguments of :func:`~mmvittm.apis.cli.add_common_arguments`.

    Raises:
        UserError: If the config cannot be read, or the launcher did not start this process.
    """
    check_launcher(args.launcher)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif not cfg.get('work_dir'):
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    if cfg.launcher == 'none':
        cfg.pop('strategy', None)  # FSDP needs a process group
    if not torch.cuda.is_available():
        with explain_config_errors(cfg, FirstStepHook()):
            adapt_to_cpu(cfg)
    return cfg


def build_runner(cfg: Config, allow_pickle: bool = False, verbose: bool = True) -> Runner:
    """Build the runner of a config. From here on, mmengine loads checkpoints without unpickling code.

    If the config sets ``resume`` to 'auto', or to True without ``load_from``, the runner resumes from the
    :func:`~mmvittm.engine.checkpoints.newest_checkpoint` of the work dir. If there is none, it starts as without
    ``resume``. A hook of ``default_hooks`` that is None is left out.

    Args:
        cfg (Config): The config, with a ``work_dir``.
        allow_pickle (bool): Let checkpoints run code. Defaults to False.
        verbose (bool): Show mmengine's log on the terminal; else warnings and the lines of a ProgressBarHook, which is
            added. The file in the work dir gets the whole log either way. Defaults to True.

    Raises:
        UserError: If the work dir cannot be written to, none of its checkpoints is intact, or a part of the config
            cannot be built.
    """
    use_safe_loading(allow_pickle)
    require_writable(cfg.work_dir)
    check_metric_arguments(cfg)
    check_optimizer(cfg)
    init_cpu_process_group(cfg)
    resumes = None
    if cfg.get('resume') == 'auto' or (cfg.get('resume') and not cfg.get('load_from')):
        newest = newest_checkpoint(cfg.work_dir, _checkpoint_folder(cfg), allow_pickle)
        resumes = (
            f'resuming from {newest}' if newest else f'no checkpoint in {_checkpoint_folder(cfg)} yet: starting anew'
        )
        cfg.resume = newest is not None
        cfg.load_from = str(newest) if newest else cfg.get('load_from')
    hooks = cfg.get('default_hooks') or {}
    cfg.default_hooks = {name: hook for name, hook in hooks.items() if hook is not None or name in _MMENGINE_HOOKS}
    with explain_config_errors(cfg):
        if (runner_class := RUNNERS.get(cfg.get('runner_type', 'Runner'))) is None:
            known = ', '.join(sorted(RUNNERS.module_dict))
            raise UserError(f'unknown runner_type {cfg.runner_type!r}: choose one of {known}')
        runner = type('ToolRunner', (_ToolRunner, runner_class), dict(verbose=verbose)).from_cfg(cfg)
    if not verbose and not any(isinstance(hook, ProgressBarHook) for hook in runner.hooks):
        runner.register_hook(ProgressBarHook())
    runner.logger.addFilter(_is_of_use)
    if resumes:
        runner.logger.info(resumes, extra=dict(terminal=True))
    runner.register_hook(dict(type='mmvittm.SyncRunningStatsHook'))
    return runner


def _is_of_use(record: logging.LogRecord) -> bool:
    return not any(message in record.getMessage() for message in _HIDDEN_MESSAGES)


def _is_for_the_terminal(record: logging.LogRecord) -> bool:
    return hasattr(record, 'terminal') or (record.levelno >= logging.WARNING and _is_of_use(record))


class _ToolRunner:
    """Mixin of a runner whose ``load_or_resume`` says in a sentence what is wrong with a checkpoint.

    Unless it is ``verbose``, its logger and Python's warnings write to the log file only. The terminal still gets the
    logger's warnings, and messages marked with ``extra=dict(terminal=True)``.
    """

    verbose: bool

    def load_or_resume(self) -> None:
        try:
            super().load_or_resume()
        except UserError:
            raise
        except Exception as error:  # a crafted checkpoint may raise anything
            reason = f'{type(error).__name__}: {error_text(error)}'
            raise UserError(f'checkpoint {self._load_from} does not fit this config: {reason}') from error

    def build_logger(self, *args, **kwargs) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        if self.verbose:
            return logger
        files = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
        for handler in set(logger.handlers) - set(files):
            handler.addFilter(_is_for_the_terminal)
        logging.captureWarnings(True)
        logging.getLogger('py.warnings').handlers = files or [logging.NullHandler()]
        return logger

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        # mmengine reverts it only in a process of its own, but it needs a GPU
        model = model if torch.cuda.is_available() else revert_sync_batchnorm(model)
        return super().wrap_model(model_wrapper_cfg, model)

    def load_checkpoint(self, *args, **kwargs) -> dict:
        # mmengine prints all names that do not fit; CheckpointFitHook says how many
        with nullcontext() if self.verbose else redirect_stdout(StringIO()):
            return super().load_checkpoint(*args, **kwargs)


def _checkpoint_folder(cfg: Config) -> Path:
    """Return the folder that mmengine's CheckpointHook saves to."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    out_dir = hook.get('out_dir')
    return Path(out_dir, Path(cfg.work_dir).absolute().name) if out_dir else Path(cfg.work_dir)
