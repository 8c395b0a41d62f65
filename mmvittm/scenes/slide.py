"""mmseg's sliding window over an image that is never whole in memory."""

from collections.abc import Iterator

import numpy as np
import torch
from mmseg.models import EncoderDecoder
from rich.progress import Progress

from ..errors import UserError
from ..models.builder import size_2d
from .inputs import label_map, padded_size, read_normalized, track
from .rasters import Raster, Window


def slide(model: EncoderDecoder, raster: Raster, progress: Progress | None) -> Iterator[tuple[Window, np.ndarray]]:
    """Yield the labels of bands of the image, as of mmseg's sliding window.

    A row of crops is held at a time. Where ``model.test_cfg`` has no ``crop_size`` and ``stride``, they are the
    training size (``data_preprocessor.size``) and two thirds of it.

    Raises:
        UserError: If the size of the crops is not known, or the stride leaves gaps between them.
    """
    crop, stride = _crop_and_stride(model)
    size = padded_size(model, raster)
    crop = min(crop[0], size[0]), min(crop[1], size[1])
    tops, lefts = (_starts(*args) for args in zip(size, crop, stride, strict=True))
    device = next(model.parameters()).device
    logits = torch.zeros(model.out_channels, crop[0], size[1], device=device)
    counts = torch.zeros(crop[0], size[1], device=device)
    for top, following in track(progress, list(zip(tops, [*tops[1:], size[0]], strict=True)), 'sliding'):
        for left in lefts:
            pixels = read_normalized(model, raster, Window(top, left, *crop))
            logits[..., left : left + crop[1]] += model.encode_decode(pixels, [dict(img_shape=pixels.shape[2:])])[0]
            counts[:, left : left + crop[1]] += 1
        done = following - top
        band = Window(top, 0, min(done, raster.size[0] - top), raster.size[1])
        mean = logits[:, : band.height, : band.width] / counts[: band.height, : band.width]
        yield band, label_map(mean[None])
        for buffer in (logits, counts):  # the rows below overlap with the next crops
            buffer[..., : crop[0] - done, :] = buffer[..., done:, :].clone()
            buffer[..., crop[0] - done :, :] = 0


def _crop_and_stride(model: EncoderDecoder) -> tuple[tuple[int, int], tuple[int, int]]:
    crop = model.test_cfg.get('crop_size') or getattr(model.data_preprocessor, 'size', None)
    if crop is None:
        raise UserError('the config gives no model.test_cfg.crop_size to slide with')
    crop = size_2d('crop_size', crop)
    stride = size_2d('stride', model.test_cfg.get('stride') or tuple(max(1, side * 2 // 3) for side in crop))
    if stride[0] > crop[0] or stride[1] > crop[1]:
        raise UserError(f'model.test_cfg.stride={stride} leaves gaps between crops of {crop}: make it smaller')
    return crop, stride


def _starts(side: int, crop: int, stride: int) -> list[int]:
    """Return where crops begin, as ``EncoderDecoder.slide_inference`` places them."""
    return [min(index * stride, side - crop) for index in range(max(side - crop + stride - 1, 0) // stride + 1)]
