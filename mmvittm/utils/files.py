"""Writing files so that nobody ever finds half of one."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary file beside ``path`` to write to; it takes the place of ``path`` when the block succeeds.

    Open it around the work, not only around the writing: an unwritable folder is then found before the work starts.

    Args:
        path (str | Path): The file to write. Missing folders are created.

    Yields:
        Path: A file in the same folder with the same suffix; it is removed if the block raises.

    Raises:
        UserError: If the folder cannot be written to or ``path`` is a folder.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise UserError(f'cannot write {path}: it is a folder, name a file in it')
    temporary = path.with_name(f'.{path.stem}-{secrets.token_hex(4)}{path.suffix}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise UserError(f'cannot write {path}: {error.strerror}, choose a folder you can write to') from error
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
