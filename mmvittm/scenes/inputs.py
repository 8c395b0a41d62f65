"""Input of a segmentor, read and prepared window by window."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmseg.models import EncoderDecoder
from rich.progress import Progress
from torch import Tensor

from .rasters import Raster, Window


def padded_size(model: EncoderDecoder, raster: Raster) -> tuple[int, int]:
    """Return height and width of the image after the padding of the model's data preprocessor."""
    divisor = (model.data_preprocessor.test_cfg or {}).get('size_divisor') or 1
    return tuple(-(-side // divisor) * divisor for side in raster.size)


def read_normalized(model: EncoderDecoder, raster: Raster, window: Window) -> Tensor:
    """Read the input ``(1, 3, height, width)`` of a window, which may reach over the image's end; that is padded."""
    preprocessor, device = model.data_preprocessor, next(model.parameters()).device
    height = min(window.height, raster.size[0] - window.top)
    width = min(window.width, raster.size[1] - window.left)
    if height <= 0 or width <= 0:
        return torch.full((1, 3, window.height, window.width), float(preprocessor.pad_value), device=device)
    image = raster.read(Window(window.top, window.left, height, width))
    # OneDL's name, upstream's name; LoadImageFromFile reads BGR
    if not getattr(preprocessor, '_channel_conversion', getattr(preprocessor, 'channel_conversion', False)):
        image = image[::-1].copy()
    pixels = torch.from_numpy(image).to(device).float()
    if preprocessor._enable_normalize:
        pixels = (pixels - preprocessor.mean) / preprocessor.std
    return F.pad(pixels[None], (0, window.width - width, 0, window.height - height), value=preprocessor.pad_value)


def label_map(logits: Tensor) -> np.ndarray:
    """Turn logits ``(1, K, height, width)`` into labels ``(height, width)``, uint8."""
    return logits[0].max(0).indices.to(torch.uint8).cpu().numpy()  # argmax is several times slower


def track(progress: Progress | None, items: Sequence, description: str) -> Iterable:
    """Return ``items``, whose iteration ``progress`` shows if there is one."""
    return items if progress is None else progress.track(items, description=description)
