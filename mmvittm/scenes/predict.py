"""Segment images of any size from file to file: the whole scene in one pass, or with a sliding window."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from mmseg.models import EncoderDecoder
from PIL import Image
from rich.progress import Progress

from ..errors import UserError
from ..fileio import atomic_path
from .inputs import label_map, track
from .rasters import Raster, Window, check_labels_path, is_tiff, open_raster, write_labels
from .slide import slide
from .whole import DEFAULT_CHUNK, Scene, SceneModel

MODES = ('whole', 'slide')
PREVIEW_SIDE = 2048  # pixels at most
PREVIEW_SUFFIXES = ('.png', '.jpg', '.jpeg')


def predict_scene(
    model: EncoderDecoder,
    image: str | Path,
    labels: str | Path,
    palette: Sequence[Sequence[int]],
    mode: str = 'whole',
    memory: float | None = None,
    preview: str | Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Segment an image of any size and write its label map.

    Args:
        model (EncoderDecoder): The model, in eval mode. For the mode 'whole', see
            :class:`mmvittm.scenes.SceneModel`; for 'slide', ``test_cfg`` may give ``crop_size`` and ``stride``.
        image (str | Path): RGB image of 8 bits: TIFF, which is read in windows, PNG or JPEG. It is not resized.
        labels (str | Path): TIFF, tiled, compressed and with the georeference of the image, or PNG. It appears when it
            is complete.
        palette (Sequence[Sequence[int]]): RGB colour of each class.
        mode (str): 'whole', in one pass, or 'slide', mmseg's sliding window.
        memory (float, optional): Limit in bytes of the mode 'whole' for all but the model and the libraries.
        preview (str | Path, optional): PNG or JPEG of at most 2,048 pixels a side, the image painted with the classes.
        progress (Progress, optional): Shows the steps.

    Raises:
        UserError: If the model cannot run in this mode, the image cannot be used, the memory does not suffice, or a
            file cannot be written.
    """
    if mode not in MODES:
        raise UserError(f'unknown mode {mode!r}: choose one of {", ".join(MODES)}')
    if len(palette) > 255:
        raise UserError(f'a label map of 8 bits cannot hold {len(palette)} classes')
    check_labels_path(labels)
    if Path(labels).resolve() == Path(image).resolve():
        raise UserError(f'the labels would replace the image {image}: choose another path')
    with open_raster(image) as raster, torch.inference_mode():
        if mode == 'whole':
            held = raster.resident + (0 if is_tiff(labels) else raster.size[0] * raster.size[1])
            predictions = _whole(model, raster, memory, held, progress)
        else:
            predictions = slide(model, raster, progress)
        # preview first: it is complete only if the labels are
        with _write_preview(preview, raster, palette) as painting, write_labels(labels, raster, palette) as writer:
            for window, classes in predictions:
                writer.write(classes, window)
                if painting:
                    painting.add(classes, window)


def _whole(
    model: EncoderDecoder, raster: Raster, memory: float | None, held: int, progress: Progress | None
) -> Iterator[tuple[Window, np.ndarray]]:
    """Yield the labels of windows that cover the image, as of the whole image in one pass.

    Image and labels hold ``held`` bytes of the memory limit.
    """
    scene_model = SceneModel(model)
    chunk = DEFAULT_CHUNK if memory is None else scene_model.chunk_within(memory, raster.size, held)
    scene = Scene(scene_model, raster, chunk, progress)
    for window in track(progress, scene.windows(), 'decoding windows'):
        yield window, label_map(model, scene.logits(window))


class Preview:
    """A small copy of a scene, painted with its classes.

    Args:
        raster (Raster): The image.
        palette (Sequence[Sequence[int]]): RGB colour of each class.
    """

    def __init__(self, raster: Raster, palette: Sequence[Sequence[int]]) -> None:
        self.raster = raster
        self.palette = np.asarray(palette, np.uint16)
        self.step = -(-max(raster.size) // PREVIEW_SIDE)
        self.image = np.zeros((*(-(-side // self.step) for side in raster.size), 3), np.uint8)

    def add(self, classes: np.ndarray, window: Window) -> None:
        """Paint a window whose labels ``(height, width)`` are known."""
        rows, columns = (slice(-start % self.step, None, self.step) for start in window[:2])
        colours = self.palette[classes[rows, columns]]
        top, left = (-(-start // self.step) for start in window[:2])
        part = self.image[top : top + colours.shape[0], left : left + colours.shape[1]]
        part[:] = (colours + self.raster.read(window)[rows, columns]) // 2


@contextmanager
def _write_preview(
    path: str | Path | None, raster: Raster, palette: Sequence[Sequence[int]]
) -> Iterator[Preview | None]:
    if path is None:
        yield None
        return
    if Path(path).suffix.lower() not in PREVIEW_SUFFIXES:
        raise UserError(f'preview {path} must be one of {", ".join(PREVIEW_SUFFIXES)}')
    with atomic_path(path) as temporary:
        painting = Preview(raster, palette)
        yield painting
        Image.fromarray(painting.image).save(temporary)
