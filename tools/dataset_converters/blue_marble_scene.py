"""Write the Blue Marble as one scene of 5400x2700 pixels, with label maps for six folds.

The image and the labels are those of blue_marble.py. Fold k holds out the tile columns k, k + 6 and k + 12:

- annotations/fold{k}/training/earth.png ignores (255) the labels of these columns. Their pixels stay in the image.
- annotations/fold{k}/held_out/earth.png ignores everything but the tiles that BlueMarbleDataset has in these columns,
  so that scores are computed on the same pixels as those of models of tiles.
"""

from pathlib import Path

import numpy as np
from blue_marble import (
    IGNORE,
    Tiles,
    cut,
    label_map,
    read_image,
    read_surface,
    read_zones,
    split_tiles,
)
from output import is_kept, output_parser
from PIL import Image
from rich.console import Console
from rich.progress import track

from mmvittm.apis.cli import run_tool
from mmvittm.datasets import BlueMarbleDataset
from mmvittm.fileio import atomic_folder

FOLDS = BlueMarbleDataset.FOLDS
SIDES = ('training', 'held_out')
NAME = 'earth.png'
KIND = 'Blue Marble scene'


def fold_labels(labels: np.ndarray, tiles: Tiles, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """Split the labels of a scene into those of the training and of the held-out tiles of a fold.

    Args:
        labels (np.ndarray): Labels ``(H, W)``, uint8.
        tiles (Tiles): Row and column of each tile that is evaluated.
        fold (int): The fold, 0 to 5.

    Returns:
        tuple[np.ndarray, np.ndarray]: Two label maps ``(H, W)``, each ignored outside of its tiles.
    """
    training, held_out = labels.copy(), np.full_like(labels, IGNORE)
    cut(training)[:, fold::FOLDS] = IGNORE
    for row, column in tiles:
        if column % FOLDS == fold:
            cut(held_out)[row, column] = cut(labels)[row, column]
    return training, held_out


def write(folder: Path, image: np.ndarray, labels: np.ndarray) -> None:
    """Write the image and the label maps of all folds."""
    (folder / 'images').mkdir()
    Image.fromarray(image).save(folder / 'images' / NAME)
    tiles = [tile for split in split_tiles(labels).values() for tile in split]
    for fold in track(range(FOLDS), 'Writing folds', console=Console(stderr=True)):
        for side, side_labels in zip(SIDES, fold_labels(labels, tiles, fold), strict=True):
            path = folder / 'annotations' / f'fold{fold}' / side / NAME
            path.parent.mkdir(parents=True)
            Image.fromarray(side_labels).save(path)


def main() -> None:
    args = output_parser(__doc__, 'data/blue_marble_scene', KIND).parse_args()
    if is_kept(args, KIND, f'images/{NAME}', 'annotations'):
        return
    with Console(stderr=True).status('Reading the maps'):
        image = read_image()
        labels = label_map(read_surface(), *read_zones(), image.shape[:2])
    with atomic_folder(args.out_dir) as folder:
        write(folder, image, labels)
    print(f'Wrote {args.out_dir}')


if __name__ == '__main__':
    run_tool(main)
