"""Images and label maps on disk that are read and written window by window.

TIFF goes through rasterio, so that neither file is ever whole in memory and a georeference is kept. PNG and JPEG are
decoded whole by PIL, one byte per channel.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ..errors import UserError
from ..fileio import atomic_path

TIFF_SUFFIXES = ('.tif', '.tiff')
_WHOLE_SUFFIXES = ('.png', '.jpg', '.jpeg')
_LABEL_SUFFIXES = (*TIFF_SUFFIXES, '.png')
_TILE = 256  # pixels; the tiles of a label TIFF
_CACHE = 256  # MB of decoded tiles that GDAL keeps


class Window(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the window in an array ``(H, W)``."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


class Raster(ABC):
    """An RGB image of 8 bits that is read in windows.

    Attributes:
        size (tuple[int, int]): Height and width in pixels.
        resident (int): Bytes of the image that are in memory all the time.
        georeference (dict): Coordinate reference system and transform, as rasterio writes them; empty if the file has
            none.
    """

    size: tuple[int, int]
    resident = 0
    georeference: dict[str, Any] = {}

    @abstractmethod
    def read(self, window: Window) -> np.ndarray:
        """Read a window, ``(height, width, 3)``, uint8, RGB.

        Raises:
            UserError: If the file is damaged.
        """


class ArrayRaster(Raster):
    """An image in memory.

    Args:
        image (np.ndarray): ``(H, W, 3)``, uint8, RGB.
    """

    def __init__(self, image: np.ndarray) -> None:
        self.image = image
        self.size = image.shape[:2]
        self.resident = image.nbytes

    def read(self, window: Window) -> np.ndarray:
        """Return a view of the window."""
        return self.image[window.slices]


class TiffRaster(Raster):
    """A TIFF that is open in rasterio.

    Args:
        path (Path): Path of the file, for errors.
        dataset (rasterio.DatasetReader): The open file.

    Raises:
        UserError: If it is not of three bands of 8 bits.
    """

    def __init__(self, path: Path, dataset: Any) -> None:
        if dataset.count != 3 or set(dataset.dtypes) != {'uint8'}:
            raise UserError(
                f'image {path} has {dataset.count} bands of {", ".join(sorted(set(dataset.dtypes)))}, and 3 of uint8 '
                f'are needed: convert it with `gdal_translate -b 1 -b 2 -b 3 -ot Byte -scale {path.name} rgb.tif`'
            )
        self.path = path
        self.dataset = dataset
        self.size = dataset.height, dataset.width
        self.resident = _CACHE << 20
        self.georeference = {} if dataset.crs is None else dict(crs=dataset.crs, transform=dataset.transform)

    def read(self, window: Window) -> np.ndarray:
        """Read a window from the file."""
        try:
            bands = self.dataset.read(window=_rasterio().windows.Window.from_slices(*window.slices))
        except OSError as error:
            raise _unreadable(self.path, error) from error
        return bands.transpose(1, 2, 0)


def is_tiff(path: str | Path) -> bool:
    """Tell by the suffix whether a file is read and written in windows."""
    return Path(path).suffix.lower() in TIFF_SUFFIXES


@contextmanager
def open_raster(path: Path) -> Iterator[Raster]:
    """Open an image; TIFF is read in windows, PNG and JPEG are decoded whole.

    Raises:
        UserError: If the file is missing, damaged, or not an RGB image of 8 bits.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f'image not found: {path}')
    if path.suffix.lower() in _WHOLE_SUFFIXES:
        yield ArrayRaster(_decode(path))
    elif is_tiff(path):
        rasterio = _rasterio()
        with rasterio.Env(GDAL_CACHEMAX=_CACHE):
            try:
                dataset = rasterio.open(path)
            except OSError as error:
                raise _unreadable(path, error) from error
            with dataset:
                yield TiffRaster(path, dataset)
    else:
        raise UserError(f'image {path} is of none of the types {", ".join((*TIFF_SUFFIXES, *_WHOLE_SUFFIXES))}')


def _decode(path: Path) -> np.ndarray:
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # the limit guards servers, and scenes are large
    try:
        with Image.open(path) as image:
            if image.mode.startswith(('I', 'F')):
                raise UserError(f'image {path} has more than 8 bits per channel: convert it to 8 bits')
            return np.asarray(ImageOps.exif_transpose(image).convert('RGB'))
    except (OSError, SyntaxError) as error:
        raise _unreadable(path, error) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = str(error.__cause__ or error).partition('\n')[0]
    return UserError(f'image {path} is damaged, or not an image ({reason}): replace the file')


class LabelWriter(ABC):
    """A label map that is written in windows."""

    @abstractmethod
    def write(self, labels: np.ndarray, window: Window) -> None:
        """Write the labels ``(height, width)``, uint8, of a window."""


class _TiffLabels(LabelWriter):
    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.counts = np.zeros(256, np.int64)

    def write(self, labels: np.ndarray, window: Window) -> None:
        self.counts += np.bincount(labels.ravel(), minlength=256)
        self.dataset.write(labels, 1, window=_rasterio().windows.Window.from_slices(*window.slices))

    def check(self, path: Path) -> None:
        """Read the file again: GDAL reports nothing where closing it fails."""
        with _rasterio().open(path) as dataset:
            for _, window in dataset.block_windows(1):
                self.counts -= np.bincount(dataset.read(1, window=window).ravel(), minlength=256)
        if self.counts.any():
            raise OSError('it holds other labels than were written')


class _ArrayLabels(LabelWriter):
    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels

    def write(self, labels: np.ndarray, window: Window) -> None:
        self.labels[window.slices] = labels


@contextmanager
def write_labels(path: Path, raster: Raster, palette: Sequence[Sequence[int]]) -> Iterator[LabelWriter]:
    """Write a label map of the size of ``raster``; the file appears when the block succeeds.

    Args:
        path (Path): A TIFF, tiled and compressed, with the georeference of ``raster``, or a PNG, which is held in
            memory until the end.
        raster (Raster): The image.
        palette (Sequence[Sequence[int]]): RGB colour of each label, stored in the file.

    Raises:
        UserError: If the file cannot be written.
    """
    path = check_labels_path(path)
    writer = _tiff_labels if is_tiff(path) else _png_labels
    try:
        with atomic_path(path) as temporary, writer(temporary, raster, palette) as labels:
            yield labels
    except UserError:
        raise
    except OSError as error:
        reason = str(error.__cause__ or error).partition('\n')[0]
        raise UserError(f'labels {path} cannot be written ({reason}): make room on the disk') from error


def check_labels_path(path: Path) -> Path:
    """Return ``path`` if labels can be written in the format of its suffix.

    Raises:
        UserError: If they cannot.
    """
    path = Path(path)
    if path.suffix.lower() not in _LABEL_SUFFIXES:
        raise UserError(f'labels {path} must be one of {", ".join(_LABEL_SUFFIXES)}')
    return path


@contextmanager
def _tiff_labels(path: Path, raster: Raster, palette: Sequence[Sequence[int]]) -> Iterator[LabelWriter]:
    height, width = raster.size
    dataset = _rasterio().open(
        path,
        'w',
        driver='GTiff',
        height=height,
        width=width,
        count=1,
        dtype='uint8',
        tiled=True,
        blockxsize=_TILE,
        blockysize=_TILE,
        compress='deflate',
        bigtiff='if_safer',
        **raster.georeference,
    )
    with dataset:
        dataset.write_colormap(1, {index: tuple(colour) for index, colour in enumerate(palette)})
        labels = _TiffLabels(dataset)
        yield labels
    labels.check(path)


@contextmanager
def _png_labels(path: Path, raster: Raster, palette: Sequence[Sequence[int]]) -> Iterator[LabelWriter]:
    labels = np.zeros(raster.size, np.uint8)
    yield _ArrayLabels(labels)
    image = Image.fromarray(labels)
    image.putpalette(np.asarray(palette, np.uint8).tobytes())
    image.save(path)


def _rasterio() -> ModuleType:
    try:
        import rasterio
        import rasterio.windows
    except ImportError as error:
        raise UserError('TIFF needs rasterio: run `pip install "mmvittm[scenes]"`') from error
    return rasterio
