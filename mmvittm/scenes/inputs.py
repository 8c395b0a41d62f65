"""Input of a segmentor, read and prepared window by window."""

import copy
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmseg.models import EncoderDecoder
from mmseg.structures import SegDataSample
from rich.progress import Progress
from torch import Tensor

from .rasters import Raster, Window


def padded_size(model: EncoderDecoder, raster: Raster) -> tuple[int, int]:
    """Return height and width of the image after the padding of the model's data preprocessor."""
    divisor = (model.data_preprocessor.test_cfg or {}).get('size_divisor') or 1
    return tuple(-(-side // divisor) * divisor for side in raster.size)


def read_normalized(model: EncoderDecoder, raster: Raster, window: Window) -> Tensor:
    """Read the input ``(1, 3, height, width)`` of a window, which may reach over the image's end; that is padded.

    The data preprocessor pads with its ``pad_val``, and a ViTTM what then lacks to whole patches, with zeros.
    """
    preprocessor = copy.copy(model.data_preprocessor)
    height, width = _within(window, padded_size(model, raster))
    preprocessor.test_cfg = dict(size=(height, width))  # it pads to
    rows, columns = _within(window, raster.size)
    if rows <= 0 or columns <= 0:
        pixels = torch.full((1, 3, height, width), float(preprocessor.pad_val), device=preprocessor.device)
    else:
        image = raster.read(Window(window.top, window.left, rows, columns))[::-1].copy()  # BGR, as LoadImageFromFile
        inputs = [torch.from_numpy(image)]
        pixels = preprocessor(dict(inputs=inputs, data_samples=[SegDataSample()]), False)['inputs']
    return F.pad(pixels, (0, window.width - width, 0, window.height - height))


def _within(window: Window, size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of the part of a window that lies within an image of ``size``."""
    return min(window.height, size[0] - window.top), min(window.width, size[1] - window.left)


def label_map(logits: Tensor) -> np.ndarray:
    """Turn logits ``(1, K, height, width)`` into labels ``(height, width)``, uint8."""
    return logits[0].max(0).indices.to(torch.uint8).cpu().numpy()  # argmax is several times slower


def track(progress: Progress | None, items: Sequence, description: str) -> Iterable:
    """Return ``items``, whose iteration ``progress`` shows if there is one."""
    return items if progress is None else progress.track(items, description=description)
