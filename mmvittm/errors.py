"""Mistakes of users, the texts of errors, and the advice to install what is missing."""

import traceback
from pathlib import Path

_LONGEST = 400  # characters of a reason; some libraries print whole configs


class UserError(ValueError):
    """A mistake in a config, checkpoint, image or argument; the message says what is wrong, where, and what to do.

    The tools print the message and exit with status 1. Any other exception is a bug and keeps its traceback.
    """


def error_text(error: BaseException) -> str:
    """Return the text of an error on one line; for a bare ``assert``, which has none, its source."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if 'Original Traceback' in text:  # from a data loader worker
        text = text.strip().rpartition('\n')[2]
    text = ' '.join(text.split())
    if not text:
        line = f'`{traceback.extract_tb(error.__traceback__)[-1].line}`'
        text = f'{line} does not hold' if isinstance(error, AssertionError) else f'{type(error).__name__} at {line}'
    return text if len(text) <= _LONGEST else f'{text[:_LONGEST]}…'


def install_command(extra: str) -> str:
    """Return the command that installs an optional group of packages, for a clone or an installed package."""
    root = Path(__file__).parents[1]
    return (
        f'pip install -e "{root}[{extra}]"'
        if (root / 'pyproject.toml').is_file()
        else f'pip install "mmvittm[{extra}]"'
    )
