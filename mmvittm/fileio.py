"""Atomic writes of files and folders, and paths of files in installed packages."""

import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from .errors import UserError, install_command


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Write a file atomically: yield a temporary file that replaces ``path`` when the block succeeds.

    Enter the context before the work, not only before the writing, so that an unwritable folder is found early.

    Args:
        path (str | Path): File to write. Missing folders are created.

    Yields:
        Path: A temporary file in the same folder with the same suffix. It is removed if the block raises.

    Raises:
        UserError: If the folder cannot be written to or ``path`` is a folder.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise UserError(f'cannot write {path}: it is a folder, give the path of a file')
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
        with suppress(OSError):  # not every file system can flush a folder
            _flush(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _flush(path: Path) -> None:
    """Flush a file or folder to disk, so that it survives a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: str | Path) -> None:
    """Remove temporary files in ``folder`` that :func:`atomic_path` left when its process was killed."""
    for path in Path(folder).glob('.*-*'):
        if re.fullmatch(r'\..+-[0-9a-f]{8}(\.\w+)?', path.name) and path.is_file():
            path.unlink()


def require_writable(folder: str | Path) -> None:
    """Create ``folder`` if it is missing.

    Raises:
        UserError: If it cannot be written to.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f'cannot write to {folder}: {error.strerror}, choose a folder you can write to') from error


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Write a folder atomically: yield a temporary folder that replaces ``path`` when the block succeeds.

    Args:
        path (str | Path): Folder to write. Links are followed, missing parents created.

    Yields:
        Path: An empty folder on the same file system. It is removed if the block raises.

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
        raise UserError(f'cannot write {path}: {error.strerror or error}') from error


def replace_folder(built: Path, out: Path, old: Path) -> None:
    """Move ``built`` to ``out`` after moving an existing ``out`` to ``old``. On failure, move ``old`` back."""
    if out.exists():
        out.rename(old)
    try:
        built.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise


def installed_file(package: str, file: str) -> Path:
    """Return the path of a file of an installed package, without importing the package.

    Raises:
        UserError: If the package or the file is missing.
    """
    try:
        path = Path(distribution(package).locate_file(file))
    except PackageNotFoundError:
        raise UserError(f'the package {package} is not installed: run `{install_command("demo")}`') from None
    if not path.is_file():
        raise UserError(f'the installed {package} has no file {file}: run `{install_command("demo")}`')
    return path
