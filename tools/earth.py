"""Draw the Earth beside its labels and a prediction of it, made in one pass by a model of the configs *_earth-*.py.

The tile columns that the fold of the config holds out are framed.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch, Rectangle
from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import Image

from mmvittm.apis.cli import run_tool
from mmvittm.apis.config import load_config
from mmvittm.apis.config_errors import in_scope
from mmvittm.apis.data import check_data
from mmvittm.datasets import BlueMarbleDataset
from mmvittm.errors import UserError
from mmvittm.fileio import atomic_path

WIDTH = 900  # pixels of a map in the figure
COLUMNS = 18
IGNORE = 255


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', type=Path, help='config that trains on the Earth as one scene')
    parser.add_argument('predictions', type=Path, help='folder that tools/test.py CONFIG CHECKPOINT --out DIR wrote')
    parser.add_argument('--out', type=Path, default=Path('earth.png'), help='figure to write (default: %(default)s)')
    return parser.parse_args()


def read_maps(cfg: Config, predictions: Path) -> list[np.ndarray]:
    """Read the image ``(H, W, 3)``, the labels of all tiles ``(H, W)`` and the prediction ``(H, W)``."""
    check_data(cfg, 'train_dataloader', 'test_dataloader')
    with in_scope(cfg):
        training, held_out = (
            DATASETS.build(cfg[f'{side}_dataloader'].dataset | dict(pipeline=[]))[0] for side in ('train', 'test')
        )
    prediction = predictions / Path(held_out['img_path']).name
    if not prediction.is_file():
        raise UserError(f'prediction not found: {prediction}, write it with tools/test.py CONFIG CHECKPOINT --out DIR')
    files = held_out['img_path'], training['seg_map_path'], held_out['seg_map_path'], prediction
    image, labels, held_out_labels, predicted = (np.asarray(Image.open(file)) for file in files)
    return [image, np.where(held_out_labels == IGNORE, labels, held_out_labels), predicted]


def draw(image: np.ndarray, labels: np.ndarray, prediction: np.ndarray, fold: int) -> plt.Figure:
    """Draw the three maps beside each other, ``(H, W, 3)``, ``(H, W)`` and ``(H, W)``."""
    meta = BlueMarbleDataset.METAINFO
    palette = np.full((256, 3), 80, np.uint8)
    palette[: len(meta['palette'])] = meta['palette']
    figure, axes = plt.subplots(1, 3, figsize=(3 * WIDTH / 100, WIDTH / 200 + 0.7), layout='constrained')
    maps = {'Blue Marble': image, 'labels': palette[labels], 'prediction in one pass': palette[prediction]}
    step = max(1, image.shape[1] // WIDTH)
    for axis, (title, pixels) in zip(axes, maps.items(), strict=True):
        axis.imshow(pixels[::step, ::step], extent=(0, 2, 0, 1))
        axis.set_title(title, fontsize=14)
        axis.axis('off')
        for column in range(fold, COLUMNS, BlueMarbleDataset.FOLDS):
            axis.add_patch(Rectangle((2 * column / COLUMNS, 0), 2 / COLUMNS, 1, fill=False, color='black'))
    handles = [
        Patch(facecolor=palette[index] / 255, edgecolor='grey', label=name)
        for index, name in enumerate(meta['classes'])
    ]
    handles.append(Patch(facecolor=palette[IGNORE] / 255, edgecolor='grey', label='no label'))
    handles.append(Patch(fill=False, edgecolor='black', label='labels held out in training'))
    figure.legend(handles=handles, ncols=len(handles), loc='outside lower center', frameon=False, fontsize=12)
    return figure


def main() -> None:
    args = parse_args()
    cfg = load_config(args.config)
    if 'scene' not in cfg:  # of the base config blue_marble_scene.py
        raise UserError(f'config {args.config} does not train on the Earth as one scene: choose one of *_earth-*.py')
    with atomic_path(args.out) as path:
        draw(*read_maps(cfg, args.predictions), int(cfg.fold)).savefig(path, dpi=100)
    print(f'Wrote {args.out}')


if __name__ == '__main__':
    run_tool(main)
