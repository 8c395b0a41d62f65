"""Finding the checkpoint that an interrupted training resumes from."""

import logging
import re
import zipfile
from pathlib import Path

from mmengine.logging import print_log

from ..engine.hooks.safe_checkpoint_hook import INTERRUPTED
from ..errors import UserError


def newest_checkpoint(work_dir: str | Path) -> Path | None:
    """The newest whole checkpoint of the training in ``work_dir``; torn ones are passed over with a warning.

    Returns:
        Path, optional: None if training has not saved any.

    Raises:
        UserError: If there are some, but none is whole.
    """
    pointer = Path(work_dir, 'last_checkpoint')
    named = Path(pointer.read_text().strip()) if pointer.is_file() else Path(work_dir, INTERRUPTED)
    found = {path for folder in {Path(work_dir), named.parent} for path in folder.glob('*.pth')}
    regular = re.compile(rf'(?:iter|epoch)_\d+\.pth|{re.escape(INTERRUPTED)}|{re.escape(named.name)}')
    found = {path.resolve(): path for path in found if regular.fullmatch(path.name)}
    for path in sorted(found.values(), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if _is_whole(path):
            return path
        print_log(
            f'checkpoint {path} is torn or damaged: passed over, the one before it is used',
            logger='current',
            level=logging.WARNING,
        )
    if found:
        raise UserError(f'no checkpoint in {work_dir} is whole: start anew in another --work-dir, without --resume')
    return None


def _is_whole(path: Path) -> bool:
    """Whether every part of a file by :func:`torch.save` agrees with its checksum; folders are taken on trust."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError):
        return path.is_dir()
