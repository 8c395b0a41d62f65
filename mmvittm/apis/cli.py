"""What every tool does around its work: one clear sentence for a user's mistake."""

import errno
import sys
from collections.abc import Callable

from ..errors import UserError
from ..weights import use_safe_loading
from .distributed import lost_process


def run_tool(main: Callable[[], None]) -> None:
    """Call ``main``; a :class:`UserError` ends the process with its sentence on stderr and status 1.

    Checkpoints that configs name are read without running code they may hold.
    """
    use_safe_loading()
    try:
        main()
    except UserError as error:
        sys.exit(f'error: {_sentence(error)}')
    except RuntimeError as error:
        if problem := lost_process(error):
            sys.exit(f'error: {problem}')
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            sys.exit(f'error: no space left to write {error.filename or "a file"}: make room and start again')
        raise
    except KeyboardInterrupt:
        sys.exit(130)


def _sentence(error: UserError) -> str:
    """An error from a data loader's worker carries the worker's whole traceback; its last line is the sentence."""
    last_line = str(error).strip().splitlines()[-1]
    return last_line.partition(f'{UserError.__name__}: ')[2] or last_line
