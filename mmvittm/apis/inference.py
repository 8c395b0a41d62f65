"""Prediction for images by a config and its checkpoint."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from ..errors import UserError
from ..weights import load_weights
from .config import build_model, load_config
from .config_errors import explain_config_errors, in_scope
from .data import IMAGE_SUFFIXES, build_unloaded, innermost_datasets
from .tasks import Palette, Task, task_of


@dataclass(frozen=True)
class Predictor:
    """A model that is ready for images."""

    task: Task
    classes: Sequence[str]
    palette: Palette  #: RGB colour of each class.
    predict: Callable[[np.ndarray], np.ndarray]  #: From an image ``(h, w, 3)``, uint8, BGR, to the task's prediction.
    model: nn.Module | None = None  #: The model, with the config that it runs images by in ``model.cfg``; eager only.


def load_model(cfg: Config, checkpoint: Path | None) -> tuple[nn.Module, dict]:
    """Build the model of a config in eval mode, with the weights of ``checkpoint`` or random ones.

    Returns:
        tuple: The model, and the checkpoint's ``meta['dataset_meta']``, empty if it has none.

    Raises:
        UserError: If the model cannot be built or the checkpoint does not fit it.
    """
    model = build_model(cfg)
    model.eval()
    stored = load_weights(model, checkpoint) if checkpoint else {}
    dataset_meta = (stored.get('meta') or {}).get('dataset_meta')
    return model, dataset_meta if isinstance(dataset_meta, dict) else {}


def eager_predictor(config: Path, checkpoint: Path, device: torch.device | str = 'cpu') -> Predictor:
    """Load a config and its checkpoint; images pass through the config's test pipeline.

    Raises:
        UserError: If a file cannot be used, the checkpoint does not fit, the config has no test pipeline, or the type
            of model is not supported.
    """
    cfg = load_config(config)
    model, dataset_meta = load_model(cfg, checkpoint)
    model.to(device).cfg = _without_annotations(cfg)
    task = task_of(model)

    def predict(image: np.ndarray) -> np.ndarray:
        with in_scope(cfg):
            return task.predict(model, image)

    return Predictor(task, **class_names(cfg, task.head(model), dataset_meta), predict=predict, model=model)


def _without_annotations(cfg: Config) -> Config:
    """Return the config with a test pipeline that loads no annotations, where mmseg and mmpretrain look for it."""
    dataset = next(innermost_datasets(cfg.test_dataloader.dataset)) if cfg.get('test_dataloader') else {}
    pipeline = dataset.get('pipeline') or cfg.get('test_pipeline')
    if not pipeline:
        raise UserError(f'config {cfg.filename} has no test_dataloader or test_pipeline, which prepares images')
    cfg = cfg.copy()
    steps = [step for step in pipeline if 'Annotation' not in str(step['type'])]
    cfg.test_pipeline = steps
    cfg.test_dataloader = dict(dataset=dict(pipeline=steps))
    return cfg


def class_names(cfg: Config, head: nn.Module, dataset_meta: dict) -> dict:
    """Return ``classes`` and ``palette``: the checkpoint's, else the test data's, else numbers and matplotlib's tab20.

    A palette of another length than the classes is not used.

    Args:
        cfg (Config): The model's config.
        head (nn.Module): The model's head.
        dataset_meta (dict): ``meta['dataset_meta']`` of the checkpoint, empty if it has none.

    Raises:
        UserError: If the head and the data differ in the number of classes, or neither has one.
    """
    meta = {key.lower(): value for key, value in dataset_meta.items()} or _test_data_meta(cfg)
    count = getattr(head, 'num_classes', None) or len(meta.get('classes') or ())  # mmpretrain's ClsHead has none
    if not count:
        raise UserError(f'neither the {type(head).__name__} nor the data of the config say how many classes there are')
    classes = tuple(meta.get('classes') or map(str, range(count)))
    if len(classes) != count:
        raise UserError(f'the model has {count} classes and the data {len(classes)}: make num_classes and data agree')
    colours = matplotlib.colormaps['tab20'].colors
    palette = meta.get('palette') or ()
    if len(palette) != count:
        palette = [[round(255 * value) for value in colours[index % len(colours)]] for index in range(count)]
    return dict(classes=classes, palette=tuple(tuple(map(int, colour)) for colour in palette))


def _test_data_meta(cfg: Config) -> dict:
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    if not loader:
        return {}
    with explain_config_errors(cfg), in_scope(cfg):
        return getattr(build_unloaded(next(innermost_datasets(loader['dataset']))), 'metainfo', {})


def read_image(path: Path) -> np.ndarray:
    """Read an image as ``(h, w, 3)``, uint8, BGR, or raise a :class:`UserError`."""
    try:
        image = mmcv.imread(path)
    except (OSError, ValueError, cv2.error) as error:
        raise UserError(f'image {path} cannot be read: {getattr(error, "err", error)}') from error
    if image is None:
        raise UserError(f'image {path} cannot be read: it is damaged or not an image')
    return image


def is_named(path: Path, suffixes: tuple[str, ...]) -> bool:
    """Return True for a name that ends in one of ``suffixes`` and is not hidden, as macOS's ``._image.png`` is."""
    return path.suffix.lower() in suffixes and not path.name.startswith('.')


def images_in(folder: Path) -> list[Path]:
    """List the images in a folder by name, or raise a :class:`UserError` if there are none."""
    if not folder.is_dir():
        raise UserError(f'image folder not found: {folder}')
    found = sorted(path for path in folder.iterdir() if is_named(path, IMAGE_SUFFIXES))
    if not found:
        raise UserError(f'folder {folder} holds no images ({", ".join(IMAGE_SUFFIXES)})')
    return found
