"""The real pictures that an export is checked, and calibrated, on."""

from collections.abc import Iterator
from pathlib import Path

import mmcv
import numpy as np
from matplotlib import cbook
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from ..apis.data import check_data, innermost_datasets
from ..errors import UserError

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.ppm', '.tif', '.tiff')


def read_image(path: Path) -> np.ndarray:
    """Read ``(h, w, 3)``, uint8, BGR.

    Raises:
        UserError: If the file is missing or no image.
    """
    try:
        image = mmcv.imread(path)
    except (OSError, ValueError) as error:
        raise UserError(f'image {path} cannot be read: {error}') from error
    if image is None:
        raise UserError(f'image {path} cannot be read: it is damaged or not an image')
    return image


def images_in(folder: Path) -> list[Path]:
    """The images in a folder, by name.

    Raises:
        UserError: If the folder is missing or holds none.
    """
    if not folder.is_dir():
        raise UserError(f'image folder not found: {folder}')
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise UserError(f'folder {folder} holds no images ({", ".join(IMAGE_SUFFIXES)})')
    return found


def sample_images(cfg: Config, folder: Path | None = None, count: int = 4) -> Iterator[np.ndarray]:
    """A few real images: of ``folder``, else of the config's test data, else the photograph that matplotlib brings.

    Raises:
        UserError: If ``folder`` holds no images.
    """
    paths = images_in(folder) if folder else _test_images(cfg)
    if paths:
        chosen = np.linspace(0, len(paths) - 1, count).round().astype(int)
        yield from (read_image(paths[index]) for index in chosen)
    else:
        image = read_image(Path(cbook.get_sample_data('grace_hopper.jpg', asfileobj=False)))
        for index in range(count):
            yield np.rot90(image, index).copy()


def _test_images(cfg: Config) -> list[Path]:
    if not cfg.get('test_dataloader'):
        return []
    try:
        check_data(cfg, 'test_dataloader')
    except UserError:  # most who export have the weights and not the data
        return []
    dataset = next(innermost_datasets(cfg.test_dataloader.dataset))
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        built = DATASETS.build({**dataset, 'pipeline': []})
    return [Path(built.get_data_info(index)['img_path']) for index in range(len(built))]
