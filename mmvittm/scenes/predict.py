"""Segment images of any size from file to file: the whole scene in one pass, or with a sliding window."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from mmseg.models import EncoderDecoder
from rich.progress import Progress

from ..errors import UserError
from ..fileio import atomic_path
from ..models.builder import positive_int
from .inputs import label_map, track
from .rasters import CACHE, Raster, Window, open_raster, paint, write_labels
from .slide import slide
from .whole import DEFAULT_CHUNK, Scene, SceneModel

MODES = ('whole', 'slide')
PREVIEW_SIDE = 2048  # pixels at most
PREVIEW_SUFFIXES = ('.png', '.jpg', '.jpeg')


def predict_scene(
    model: EncoderDecoder,
    image: str | Path,
    labels: str | Path,
    palette: Sequence[Sequence[int]] | None = None,
    mode: str = 'whole',
    memory: float | None = None,
    preview: str | Path | None = None,
    progress: Progress | None = None,
    reduce: int = 1,
) -> None:
    """Segment an image of any size and write its label map.

    Args:
        model (EncoderDecoder): The model, in eval mode. For the mode 'whole', see
            :class:`mmvittm.scenes.SceneModel`; for 'slide', ``test_cfg`` may give ``crop_size`` and ``stride``.
        image (str | Path): RGB image of 8 bits: TIFF, PNG or JPEG, read in windows.
        labels (str | Path): TIFF, tiled, compressed and with the georeference of the image, or PNG. It appears when it
            is complete.
        palette (Sequence[Sequence[int]], optional): RGB colour of each class. Defaults to that of
            ``model.dataset_meta``.
        mode (str): 'whole', in one pass, or 'slide', mmseg's sliding window.
        memory (float, optional): Limit in bytes of the mode 'whole' for all but the model and the libraries.
        preview (str | Path, optional): PNG or JPEG of at most 2,048 pixels a side, the image painted with the classes.
        progress (Progress, optional): Shows the steps.
        reduce (int): Integer factor that the image, and so the labels, are reduced by, to the resolution that the model
            is made for. Defaults to 1.

    Raises:
        UserError: If the model cannot run in this mode, the image cannot be used, the memory does not suffice, or a
            file cannot be written.
    """
    image, labels = (Path(path).expanduser() for path in (image, labels))
    if palette is None:
        palette = (getattr(model, 'dataset_meta', None) or {}).get('palette', ())
    if model.out_channels == 1:
        raise UserError('a head with one logit for two classes is not supported: set out_channels=2')
    _check(image, labels, palette, model.out_channels, mode, memory, preview)
    with open_raster(image, positive_int('reduce', reduce)) as raster, torch.inference_mode(), ExitStack() as files:
        predictions = _whole(model, raster, memory, progress) if mode == 'whole' else slide(model, raster, progress)
        painting = files.enter_context(atomic_path(preview)) if preview else None
        with write_labels(labels, raster, palette) as writer:
            for window, classes in predictions:
                writer.write(classes, window)
        if painting:
            paint(raster, labels, palette, PREVIEW_SIDE).save(painting)


def _check(
    image: Path,
    labels: Path,
    palette: Sequence[Sequence[int]],
    num_classes: int,
    mode: str,
    memory: float | None,
    preview: str | Path | None,
) -> None:
    if mode not in MODES:
        raise UserError(f'unknown mode {mode!r}: choose one of {", ".join(MODES)}')
    if memory is not None and mode != 'whole':
        raise UserError(f"the memory limit is for one pass: leave it out in the mode '{mode}'")
    if num_classes > 256:
        raise UserError(f'a label map of 8 bits cannot hold {num_classes} classes')
    if not num_classes <= len(palette) <= 256:
        raise UserError(f'palette has {len(palette)} colours for {num_classes} classes: give one for each')
    if preview and Path(preview).suffix.lower() not in PREVIEW_SUFFIXES:
        raise UserError(f'preview {preview} must be one of {", ".join(PREVIEW_SUFFIXES)}')
    paths = [Path(path).expanduser().resolve() for path in (image, labels, preview) if path]
    if len(set(paths)) < len(paths):
        raise UserError(f'the image {image}, the labels and the preview must be different files: choose another path')


def _whole(
    model: EncoderDecoder, raster: Raster, memory: float | None, progress: Progress | None
) -> Iterator[tuple[Window, np.ndarray]]:
    """Yield the labels of windows that cover the image, as of the whole image in one pass."""
    scene_model = SceneModel(model)
    chunk = DEFAULT_CHUNK if memory is None else scene_model.chunk_within(memory, raster.size, CACHE)
    scene = Scene(scene_model, raster, chunk, progress)
    for window in track(progress, scene.windows(), 'decoding windows'):
        yield window, label_map(scene.logits(window))
