"""Input of a segmentor, read and prepared window by window."""

import copy
from collections.abc import Iterable, Sequence

import numpy as np
import torch
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
    """Read the input ``(1, 3, height, width)`` of a window, which may reach over the image's end; that is padded."""
    preprocessor = copy.copy(model.data_preprocessor)
    preprocessor.test_cfg = dict(size=(window.height, window.width))  # it pads to
    height = min(window.height, raster.size[0] - window.top)
    width = min(window.width, raster.size[1] - window.left)
    if height <= 0 or width <= 0:
        size = (1, 3, window.height, window.width)
        return torch.full(size, float(preprocessor.pad_val), device=preprocessor.device)
    image = raster.read(Window(window.top, window.left, height, width))[::-1].copy()  # BGR, as LoadImageFromFile reads
    return preprocessor(dict(inputs=[torch.from_numpy(image)], data_samples=[SegDataSample()]), False)['inputs']


def label_map(logits: Tensor) -> np.ndarray:
    """Turn logits ``(1, K, height, width)`` into labels ``(height, width)``, uint8."""
    return logits[0].max(0).indices.to(torch.uint8).cpu().numpy()  # argmax is several times slower


def track(progress: Progress | None, items: Sequence, description: str) -> Iterable:
    """Return ``items``, whose iteration ``progress`` shows if there is one."""
    return items if progress is None else progress.track(items, description=description)
