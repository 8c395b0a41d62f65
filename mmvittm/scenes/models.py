"""Segmentors ready for scenes, from a config and its checkpoint or from a folder of weights/."""

import re
from pathlib import Path

from mmseg.models import EncoderDecoder

from ..apis.config import load_config
from ..apis.inference import class_names, load_model
from ..apis.tasks import task_of
from ..errors import UserError
from ..weights.saving import sha256


def load_segmentor(config: str | Path, checkpoint: str | Path) -> EncoderDecoder:
    """Build a segmentor in eval mode and load its weights.

    Returns:
        EncoderDecoder: The model, whose ``dataset_meta`` has ``classes`` and ``palette``.

    Raises:
        UserError: If a file cannot be used, the checkpoint does not fit, or the model is no segmentor.
    """
    cfg = load_config(config)
    model, meta = load_model(cfg, Path(checkpoint))
    task = task_of(model)
    if task.name != 'segmentation':
        raise UserError(f'config {config} is no segmentor')
    model.dataset_meta = class_names(cfg, task.head(model), meta)
    return model


def load_shipped_model(folder: str | Path) -> EncoderDecoder:
    """Load a segmentor that the repository ships.

    Args:
        folder (str | Path): A folder of weights/: ``config.py``, and ``NAME-HASH.safetensors`` with the first eight
            digits of its SHA-256 sum, as ``tools/publish_model.py`` names it.

    Raises:
        UserError: If the folder does not hold one such file, or the file has another hash.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f'folder not found: {folder}; weights/ is in the repository, not in the installed package')
    files = [path for path in folder.glob('*.safetensors') if re.search(r'-[0-9a-f]{8}$', path.stem)]
    if len(files) != 1:
        raise UserError(f'{folder} holds {len(files)} files NAME-HASH.safetensors: give a folder of weights/ with one')
    if not sha256(files[0]).startswith(files[0].stem[-8:]):
        raise UserError(f"{files[0]} is damaged, its SHA-256 sum does not begin with its name's: check it out again")
    return load_segmentor(folder / 'config.py', files[0])
