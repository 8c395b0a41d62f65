"""Mistakes of users, and the advice to install what is missing."""

from pathlib import Path


class UserError(ValueError):
    """A mistake in a config, checkpoint, image or argument; the message says what is wrong, where, and what to do.

    The tools print the message and exit with status 1. Any other exception is a bug and keeps its traceback.
    """


def install_command(extra: str) -> str:
    """Return the command that installs an optional group of packages, for a clone or an installed package."""
    root = Path(__file__).parents[1]
    return (
        f'pip install -e "{root}[{extra}]"'
        if (root / 'pyproject.toml').is_file()
        else f'pip install "mmvittm[{extra}]"'
    )
