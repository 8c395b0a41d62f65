"""The checkpoints in a work dir, and which of them ``--resume`` continues."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

from mmengine.logging import print_log

from ..errors import UserError
from ..weights.loading import load_checkpoint_file, verify_records

INTERRUPTED = 'interrupted.pth'  # saved when a signal stops the training
LAST = 'last_checkpoint'  # text file with the path of the last checkpoint saved, as in mmengine
RESUMED_FROM = 'resumed_from'  # the same for a checkpoint of another folder, until the run has saved one of its own


def newest_checkpoint(
    work_dir: str | Path, folder: str | Path | None = None, allow_pickle: bool = False
) -> Path | str | None:
    """Return the checkpoint from which the training in ``work_dir`` continues; warn about damaged ones.

    ``last_checkpoint`` gives its name. Without that, it is the one of the most iterations. The folder that
    ``last_checkpoint`` gives is ignored, since the work dir may be a copy. If the run was resumed from another folder
    and has not saved a checkpoint yet, it continues from there again.

    Args:
        work_dir (str | Path): The work dir.
        folder (str | Path, optional): Folder of its checkpoints. Defaults to ``work_dir``.
        allow_pickle (bool): Let checkpoints run code. Defaults to False.

    Returns:
        Path | str, optional: A URL if the run was resumed from one and has not saved a checkpoint yet; None if the
        training has not saved any.

    Raises:
        UserError: If there are checkpoints and all are damaged.
    """
    if start := read_path(Path(work_dir, RESUMED_FROM)):
        if '://' in start:
            return start
        _check_start(Path(work_dir), start, allow_pickle)
        return Path(start)
    folder = Path(folder or work_dir)
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    last = [name] if (name := Path(read_path(Path(work_dir, LAST))).name) else []
    numbered = [name for name in names.difference(last) if re.fullmatch(r'(iter|epoch)_\d+\.pth', name)]
    interrupted = [INTERRUPTED] if INTERRUPTED in names.difference(last) else []
    found = _first_intact(folder, last, allow_pickle)
    if not found:
        groups = sorted(numbered, key=_number, reverse=True), interrupted
        found = max(filter(None, (_first_intact(folder, group, allow_pickle) for group in groups)), default=None)
    if not found and (last or numbered or interrupted):
        raise UserError(
            f'all checkpoints in {folder} are damaged or missing: pass another one to --resume, or start again without '
            '--resume in a new --work-dir'
        )
    return found[1] if found else None


def read_path(file: Path) -> str:
    """Return the path in a file such as ``last_checkpoint``, empty if there is none."""
    return file.read_bytes().decode(errors='replace').strip() if file.is_file() else ''


def require_training_state(checkpoint: Mapping, name: str | Path) -> None:
    """Check that a training can be resumed from ``checkpoint``.

    Raises:
        UserError: If it is no checkpoint of a training, or one without optimizer, such as the best one.
    """
    meta, hub = (checkpoint.get(key) for key in ('meta', 'message_hub'))
    has = {
        'meta': isinstance(meta, Mapping) and all(type(meta.get(key)) is int for key in ('epoch', 'iter')),
        'message_hub': isinstance(hub, Mapping)
        and all(isinstance(hub.get(key), Mapping) for key in ('log_scalars', 'runtime_info', 'resumed_keys')),
        **{key: isinstance(checkpoint.get(key), Mapping) for key in ('state_dict', 'optimizer')},
    }
    if missing := [key for key, present in has.items() if not present]:
        raise UserError(
            f'checkpoint {name} cannot be resumed, it has no {", ".join(missing)}: pass one that a training saved, '
            'such as iter_N.pth, or start from its weights with --cfg-options load_from=CHECKPOINT'
        )


def _check_start(work_dir: Path, start: str, allow_pickle: bool) -> None:
    try:
        _iterations(Path(start), allow_pickle)
    except (UserError, OSError) as error:
        raise UserError(
            f'the run in {work_dir} was resumed from {start} and has not saved a checkpoint yet, but {error}: pass '
            'another one to --resume'
        ) from error


def _first_intact(folder: Path, names: list[str], allow_pickle: bool) -> tuple[int, Path] | None:
    for name in names:
        try:
            return _iterations(folder / name, allow_pickle), folder / name
        except (UserError, OSError) as error:
            print_log(
                f'checkpoint {folder / name} is damaged, resuming from the one before it: {error}',
                logger='current',
                level=logging.WARNING,
            )
    return None


def _iterations(path: Path, allow_pickle: bool) -> int:
    """Verify a checkpoint and return its number of iterations."""
    if path.is_dir():  # of FSDP or DeepSpeed, with a file per process
        files = sorted(path.rglob('*.pt*'))
        if not files:
            raise UserError(f'checkpoint {path} is a folder without weights')
        for file in files:
            verify_records(file)
        return _number(path.name)
    checkpoint = load_checkpoint_file(path, allow_pickle=allow_pickle)
    require_training_state(checkpoint, path)
    return checkpoint['meta']['iter']


def _number(name: str) -> int:
    return int((re.findall(r'\d+', name) or [0])[-1])
