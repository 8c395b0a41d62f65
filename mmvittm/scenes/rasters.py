"""Images and label maps on disk that are read and written window by window, through rasterio (GDAL)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..errors import UserError, install_command
from ..fileio import atomic_path

SCENE_SUFFIXES = ('.tif', '.tiff', '.png', '.jpg', '.jpeg')
LABEL_SUFFIXES = ('.tif', '.tiff', '.png')
CACHE = 256 << 20  # bytes of decoded pixels that GDAL keeps: PNG and JPEG have a row of windows decoded once
_TILE = 256  # pixels; the tiles of a label TIFF
_GDAL = dict(
    GDAL_CACHEMAX=CACHE,
    GDAL_PAM_ENABLED='NO',  # writes no second file beside a PNG
    GDAL_ERROR_ON_LIBJPEG_WARNING='YES',
    GDAL_PNG_WHOLE_IMAGE_OPTIM='NO',  # it reads a truncated file as black
)


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


class Raster:
    """An RGB image of 8 bits that is read in windows; see :func:`open_raster`.

    Args:
        path (Path): Path of the file, for errors.
        dataset (rasterio.DatasetReader): The open file.
        reduce (int): Pixels of the file along each side of a pixel, which is their mean. Those left over at the right
            and at the bottom are dropped.

    Attributes:
        size (tuple[int, int]): Height and width in pixels.
        georeference (dict): Coordinate reference system and transform, as rasterio writes them; empty if the file has
            none.

    Raises:
        UserError: If it is not of three bands of 8 bits.
    """

    def __init__(self, path: Path, dataset: Any, reduce: int = 1) -> None:
        types = ', '.join(sorted(set(dataset.dtypes)))
        if dataset.count != 3 or types != 'uint8':
            raise UserError(
                f'image {path} has {dataset.count} bands of {types}, and 3 of uint8 are needed: '
                'convert it with `gdal_translate -b 1 -b 2 -b 3`, another type with `-ot Byte -scale 0 MAX 0 255`'
            )
        if dataset.tags().get('EXIF_Orientation', '1') != '1':
            raise UserError(
                f'image {path} is turned by its EXIF orientation, which scenes do not apply: store it upright'
            )
        self.path = path
        self._dataset = dataset
        self._reduce = reduce
        self.size = dataset.height // reduce, dataset.width // reduce
        transform = dataset.transform * dataset.transform.scale(reduce)
        if 0 in self.size:
            raise UserError(f'image {path} has no {reduce}×{reduce} pixels to reduce to one: choose a smaller factor')
        self.georeference = {} if dataset.crs is None else dict(crs=dataset.crs, transform=transform)

    def read(self, window: Window, size: tuple[int, int] | None = None) -> np.ndarray:
        """Read a window.

        Args:
            window (Window): Part of the image.
            size (tuple[int, int], optional): Height and width of the result. Defaults to those of the window.

        Returns:
            np.ndarray: ``(3, height, width)``, uint8, RGB.

        Raises:
            UserError: If the file is damaged.
        """
        rasterio = _rasterio()
        pixels = rasterio.windows.Window.from_slices(*Window(*(self._reduce * length for length in window)).slices)
        shape = 3, *(size or (window.height, window.width))
        try:
            return self._dataset.read(window=pixels, out_shape=shape, resampling=rasterio.enums.Resampling.average)
        except OSError as error:
            raise _unreadable(self.path, error) from error


@contextmanager
def open_raster(path: str | Path, reduce: int = 1) -> Iterator[Raster]:
    """Open an image, reduced by an integer factor.

    Raises:
        UserError: If the file is missing, damaged, or not an RGB image of 8 bits.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f'image not found: {path}')
    if path.suffix.lower() not in SCENE_SUFFIXES:
        raise UserError(f'image {path} is of none of the types {", ".join(SCENE_SUFFIXES)}')
    rasterio = _rasterio()
    with rasterio.Env(**_GDAL):
        try:
            dataset = rasterio.open(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        with dataset:
            yield Raster(path, dataset, reduce)


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f'image {path} is damaged, or not an image ({_reason(error)}): replace the file')


def _reason(error: Exception) -> str:
    return str(error.__cause__ or error).partition('\n')[0]


class LabelWriter:
    """A label map on disk that is written in windows; see :func:`write_labels`.

    Args:
        dataset (rasterio.DatasetWriter): The open file.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self.counts = np.zeros(256, np.int64)

    def write(self, labels: np.ndarray, window: Window) -> None:
        """Write the labels ``(height, width)``, uint8, of a window."""
        self.counts += np.bincount(labels.ravel(), minlength=256)
        self._dataset.write(labels, 1, window=_rasterio().windows.Window.from_slices(*window.slices))


@contextmanager
def write_labels(path: str | Path, raster: Raster, palette: Sequence[Sequence[int]]) -> Iterator[LabelWriter]:
    """Write a label map of the size of ``raster``; the file appears when the block succeeds.

    Args:
        path (str | Path): A TIFF, tiled and compressed, with the georeference of ``raster``, or a PNG.
        raster (Raster): The image.
        palette (Sequence[Sequence[int]]): RGB colour of each label, stored in the file.

    Raises:
        UserError: If the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in LABEL_SUFFIXES:
        raise UserError(f'labels {path} must be one of {", ".join(LABEL_SUFFIXES)}')
    try:
        with atomic_path(path) as temporary:
            is_png = path.suffix.lower() == '.png'
            tiff = temporary.with_suffix('.tif') if is_png else temporary
            try:
                with _tiff_labels(tiff, raster, palette) as labels:
                    yield labels
                if is_png:
                    _copy_to_png(tiff, temporary)
                _check(temporary, labels.counts)
            finally:
                if is_png:
                    tiff.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f'labels {path} cannot be written ({_reason(error)}): make room on the disk') from error


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
        yield LabelWriter(dataset)


def _copy_to_png(tiff: Path, png: Path) -> None:
    """Convert row by row; GDAL writes a PNG only from top to bottom, so labels cannot go there directly."""
    rasterio = _rasterio()
    try:
        rasterio.shutil.copy(tiff, png, driver='PNG')
    except rasterio._err.CPLE_BaseError as error:
        raise OSError(str(error)) from error


def _check(path: Path, counts: np.ndarray) -> None:
    """Read labels again and count them: GDAL reports nothing where closing a file fails."""
    found = np.zeros_like(counts)
    with _rasterio().open(path) as dataset:
        for _, window in dataset.block_windows(1):
            found += np.bincount(dataset.read(1, window=window).ravel(), minlength=256)
    if not np.array_equal(found, counts):
        raise OSError('it holds other labels than were written')


def paint(raster: Raster, labels: Path, palette: Sequence[Sequence[int]], side: int) -> Image.Image:
    """Mix an image with the colours of its labels; the result has at most ``side`` pixels a side."""
    step = -(-max(raster.size) // side)
    size = tuple(-(-length // step) for length in raster.size)
    with _rasterio().open(labels) as dataset:
        colours = np.asarray(palette, np.uint16)[dataset.read(1, out_shape=size)]
    pixels = raster.read(Window(0, 0, *raster.size), size).transpose(1, 2, 0)
    return Image.fromarray(((colours + pixels) // 2).astype(np.uint8))


def _rasterio() -> ModuleType:
    try:
        import rasterio
        import rasterio._err
        import rasterio.enums
        import rasterio.shutil
        import rasterio.windows
    except ImportError as error:
        raise UserError(f'scenes need rasterio: run `{install_command("scenes")}`') from error
    return rasterio
