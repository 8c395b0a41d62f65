"""Writing files so that nobody ever finds half of one, and finding those that installed packages carry."""

import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from .errors import UserError


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
        _flush(temporary)
        temporary.replace(path)
        with suppress(OSError):  # some file systems cannot flush a folder
            _flush(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _flush(path: Path) -> None:
    """Wait until what was written is on the disk, so that it is still there after a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files that a process killed in :func:`atomic_path` left in ``folder``."""
    for path in Path(folder).glob('.*-*'):
        if re.fullmatch(r'\..+-[0-9a-f]{8}(\.\w+)?', path.name) and path.is_file():
            path.unlink()


def require_writable(folder: str | Path) -> None:
    """Create ``folder`` if it is missing.

    Raises:
        UserError: If nothing can be written there.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f'cannot write to {folder}: {error.strerror}, choose a folder you can write to') from error


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a new folder beside ``path`` to fill; it takes the place of ``path`` when the block succeeds.

    Args:
        path (str | Path): The folder to write; if it is a link, the link's target. Missing parents are created.

    Yields:
        Path: An empty folder on the same file system; it is removed if the block raises.

    Raises:
        UserError: If the folder, or a file in it, cannot be written.
    """
    out = Path(path).expanduser().resolve()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f'.{out.name}.', dir=out.parent) as scratch:
            built = Path(scratch, 'new')
            built.mkdir()
            yield built
            replace_folder(built, out, Path(scratch, 'old'))
    except OSError as error:
        raise UserError(f'Cannot write {path}: {error.strerror or error}.') from error


def replace_folder(built: Path, out: Path, old: Path) -> None:
    """Move the folder ``built`` to ``out``, and what was there to ``old``; on failure it is moved back."""
    if out.exists():
        out.rename(old)
    try:
        built.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise


def installed_file(package: str, file: str) -> Path:
    """Path of a file of an installed package, found without importing the package.

    Raises:
        UserError: If the package, or the file in it, is missing.
    """
    try:
        path = Path(distribution(package).locate_file(file))
    except PackageNotFoundError:
        raise UserError(f'The package {package} is not installed: run `pip install "mmvittm[demo]"`.') from None
    if not path.is_file():
        raise UserError(f'{package} is installed without {file}: run `pip install "mmvittm[demo]"`.')
    return path
