"""Prepare a config for training or testing, and build mmengine's runner from it."""

import argparse
import logging
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger, print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..engine.hooks.progress_bar_hook import ProgressBarHook
from ..engine.hooks.safe_checkpoint_hook import INTERRUPTED
from ..errors import UserError
from ..fileio import require_writable
from ..weights import use_safe_loading
from .config import load_config
from .config_errors import FirstStepHook, explain_config_errors
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

    If the config sets ``resume`` without ``load_from``, the runner resumes from the newest intact checkpoint of the
    work dir. A hook of ``default_hooks`` that is None is left out.

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
    init_cpu_process_group(cfg)
    if cfg.get('resume') and not cfg.get('load_from'):
        newest = newest_checkpoint(cfg.work_dir)
        cfg.load_from = str(newest) if newest else None
    hooks = cfg.get('default_hooks') or {}
    cfg.default_hooks = {name: hook for name, hook in hooks.items() if hook is not None or name in _MMENGINE_HOOKS}
    with explain_config_errors(cfg), nullcontext() if verbose else _quiet_terminal():
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if not verbose and not any(isinstance(hook, ProgressBarHook) for hook in runner.hooks):
        runner.register_hook(ProgressBarHook())
    runner.logger.addFilter(_is_of_use)
    return runner


def _is_of_use(record: logging.LogRecord) -> bool:
    return not any(message in record.getMessage() for message in _HIDDEN_MESSAGES)


def _is_for_the_terminal(record: logging.LogRecord) -> bool:
    return hasattr(record, 'terminal') or (record.levelno >= logging.WARNING and _is_of_use(record))


@contextmanager
def _quiet_terminal() -> Iterator[None]:
    """Let mmengine's loggers that are created meanwhile, and Python's warnings, write to their files only.

    The terminal still gets the loggers' warnings, and messages marked with ``extra=dict(terminal=True)``.
    """
    create = MMLogger.__init__

    def create_quiet(logger: MMLogger, *args, **kwargs) -> None:
        create(logger, *args, **kwargs)
        files = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
        for handler in set(logger.handlers) - set(files):
            handler.addFilter(_is_for_the_terminal)
        logging.getLogger('py.warnings').handlers = files or [logging.NullHandler()]

    logging.captureWarnings(True)
    with mock.patch.object(MMLogger, '__init__', create_quiet):
        yield


def newest_checkpoint(work_dir: str | Path) -> Path | None:
    """Return the newest intact checkpoint of the training in ``work_dir``; warn about damaged ones.

    Returns:
        Path, optional: None if the training has not saved any.

    Raises:
        UserError: If there are checkpoints and all are damaged.
    """
    pointer = Path(work_dir, 'last_checkpoint')
    named = Path(pointer.read_text().strip()) if pointer.is_file() else Path(work_dir, INTERRUPTED)
    found = {path for folder in {Path(work_dir), named.parent} for path in folder.glob('*.pth')}
    regular = re.compile(rf'(?:iter|epoch)_\d+\.pth|{re.escape(INTERRUPTED)}|{re.escape(named.name)}')
    found = {path.resolve(): path for path in found if regular.fullmatch(path.name)}
    for path in sorted(found.values(), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if _is_intact(path):
            return path
        print_log(
            f'checkpoint {path} is damaged: resuming from the one before it', logger='current', level=logging.WARNING
        )
    if found:
        raise UserError(f'all checkpoints in {work_dir} are damaged: start again without --resume in a new --work-dir')
    return None


def _is_intact(path: Path) -> bool:
    """Compare a file written by :func:`torch.save` with its checksums. A folder counts as intact."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError):
        return path.is_dir()
