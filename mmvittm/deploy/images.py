"""Images: choosing a few to check an export on, and fitting them to an exported network."""

from collections.abc import Callable, Iterator
from pathlib import Path

import mmcv
import numpy as np
from matplotlib import cbook
from mmengine.config import Config

from ..apis.config_errors import in_scope
from ..apis.data import build_unloaded, check_data, innermost_datasets
from ..apis.inference import images_in, read_image
from ..apis.tasks import Size
from ..errors import UserError
from .metadata import ExportMetadata


def sample_images(cfg: Config, folder: Path | None = None, count: int = 4) -> Iterator[np.ndarray]:
    """Yield ``count`` images: from ``folder``, else from the test data, else matplotlib's photograph, rotated."""
    paths = images_in(folder) if folder else _test_images(cfg)
    if paths:
        chosen = np.linspace(0, len(paths) - 1, count).round().astype(int)
        yield from (read_image(paths[index]) for index in chosen)
    else:
        image = read_image(Path(cbook.get_sample_data('grace_hopper.jpg', asfileobj=False)))
        yield from (np.rot90(image, turns).copy() for turns in range(count))


def _test_images(cfg: Config) -> list[Path]:
    if not cfg.get('test_dataloader'):
        return []
    try:
        check_data(cfg, 'test_dataloader')
    except UserError:  # the data need not be on the machine that exports
        return []
    with in_scope(cfg):
        dataset = build_unloaded(next(innermost_datasets(cfg.test_dataloader.dataset)))
    if dataset is None:
        return []
    dataset.full_init()
    infos = (dataset.get_data_info(index) for index in range(len(dataset)))
    return [Path(info['img_path']) for info in infos if 'img_path' in info]


def inside(image: np.ndarray, shape: Size) -> np.ndarray:
    """Resize to the largest size within ``shape``, keeping the aspect ratio."""
    return _resize(image, shape, min)


def centre(image: np.ndarray, shape: Size) -> np.ndarray:
    """Resize to the smallest size that covers ``shape``, keeping the aspect ratio, and crop the centre."""
    image = _resize(image, shape, max)
    top, left = ((have - want) // 2 for have, want in zip(image.shape, shape, strict=False))
    return image[top : top + shape[0], left : left + shape[1]]


def _resize(image: np.ndarray, shape: Size, pick: Callable) -> np.ndarray:
    factor = pick(want / have for have, want in zip(image.shape, shape, strict=False))
    height, width = (max(1, pick(round(have * factor), want)) for have, want in zip(image.shape, shape, strict=False))
    return mmcv.imresize(image, (width, height), interpolation='bilinear', backend='cv2')


#: How an image is fitted to a network's input, by the name in :attr:`ExportMetadata.fit`.
FITS: dict[str, Callable[[np.ndarray, Size], np.ndarray]] = dict(inside=inside, centre=centre)


def prepare(image: np.ndarray, metadata: ExportMetadata) -> tuple[np.ndarray, Size]:
    """Turn an image into the input of an exported network.

    Args:
        image (np.ndarray): ``(h, w, 3)``, uint8, BGR.
        metadata (ExportMetadata): The network's metadata.

    Returns:
        tuple: The input ``(3, H, W)``, float32, and the height and width of the image in it, from the top left corner.
    """
    fitted = FITS[metadata.fit](image, metadata.shape)
    mean, std = np.array(metadata.mean), np.array(metadata.std)
    normalised = mmcv.imnormalize(fitted, mean, std, to_rgb=metadata.channel_order == 'rgb')
    padded = mmcv.impad(normalised, shape=metadata.shape, pad_val=(metadata.pad_value,) * 3)
    return np.ascontiguousarray(padded.transpose(2, 0, 1)), fitted.shape[:2]
