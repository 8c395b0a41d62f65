"""The entry point of the command-line tools and the arguments that training and testing share."""

import argparse
import errno
import re
import shlex
import sys
import warnings
from collections.abc import Callable

import torch
from mmengine.config import DictAction

from ..errors import UserError, error_text
from ..weights import use_safe_loading
from .distributed import end_process_group, explain_lost_process

# Library warnings that a user of the tools cannot act on.
for _message in (
    'Default ``avg_non_ignore`` is False',
    '``build_loss`` would be deprecated soon',
    'Dataset has no geotransform',  # rasterio, of every image that is no map
    'The draw is False, it means that the hook for visualization will not take effect',
):
    warnings.filterwarnings('ignore', message=_message)

# the allocator's RuntimeError on the CPU; that on a GPU is torch.OutOfMemoryError, a RuntimeError too
_OUT_OF_MEMORY = re.compile("can't allocate memory|out of memory|Storage size calculation overflowed", re.IGNORECASE)


def positive_int(text: str) -> int:
    """Parse a whole number above 0, as ``type`` of an argument."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'must be a whole number above 0, not {text!r}')
    return int(text)


def device(text: str) -> torch.device:
    """Parse a device that torch can use here, as ``type`` of an argument."""
    try:
        return torch.empty(0, device=text).device
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f'{text} cannot be used: {error_text(error)}') from error


def run_tool(main: Callable[[], None]) -> None:
    """Call ``main`` and report users' mistakes in one sentence on stderr, with exit status 1.

    Checkpoints named in configs are read without running code from them.
    """
    use_safe_loading()
    if any(not word or re.fullmatch(r'--[\w-]+=', word) for word in sys.argv[1:]):
        sys.exit(f'error: an argument is empty: {shlex.join(sys.argv[1:])}')
    status = None
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit as stop:  # on a signal, all processes of a run exit together
        status = stop.code  # the traceback would keep the model, and with it the process group
    except Exception as error:
        if problem := known_problem(error):
            sys.exit(f'error: {problem}')
        raise
    end_process_group()
    if status is not None:
        sys.exit(status)


def known_problem(error: Exception) -> str | None:
    """Return one sentence for an error that a user can mend, or None for one that may be a defect."""
    if isinstance(error, UserError):
        return _sentence(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        file = error.filename or 'a file'
        return f'{file} cannot be written ({error.strerror}): free some space and start again'
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error))):
        return f'out of memory ({error_text(error)}): choose smaller images, batches or models'
    return explain_lost_process(error) if isinstance(error, RuntimeError) else None


class CfgOptions(DictAction):
    """mmengine's ``--cfg-options key=value …``, with an argparse error for what it cannot read."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values, option_string=None):
        try:
            super().__call__(parser, namespace, values, option_string)
        except Exception:
            parser.error(f'{option_string} takes pairs such as key=value or "key=[1,2]", not {shlex.join(values)}')


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that every OpenMMLab tool for training and testing has."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: work_dirs/CONFIG_NAME)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        help='override config values, as key=value pairs: model.backbone.arch=tiny, or key="[a,b]" for a list',
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher (default: none)'
    )
    parser.add_argument(
        '--allow-pickle',
        action='store_true',
        help='load checkpoints that are more than plain weights; they can run any code, so use it for files you trust',
    )
    parser.add_argument(
        '--verbose', action='store_true', help="show mmengine's whole log, which the work dir gets in any case"
    )
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0, help='set by torch.distributed.launch')


def _sentence(error: UserError) -> str:
    """Return the last line of an error: one from a data loader worker begins with the worker's traceback."""
    last_line = (str(error).strip() or repr(error)).splitlines()[-1]
    return last_line.partition(f'{UserError.__name__}: ')[2] or last_line
