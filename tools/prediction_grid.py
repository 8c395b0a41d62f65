"""Draw test images of a config above their ground truth and prediction, with a legend of the classes."""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import Image

from mmvittm.apis.cli import positive_int, run_tool
from mmvittm.apis.config import load_config
from mmvittm.apis.config_errors import in_scope
from mmvittm.apis.data import check_data, read_label_map
from mmvittm.errors import UserError
from mmvittm.fileio import atomic_path

matplotlib.use('Agg')
from matplotlib import pyplot as plt
from matplotlib.patches import Patch

ROWS = ('image', 'ground truth', 'prediction')
UNLABELLED = (0, 0, 0)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file with the test data')
    parser.add_argument('predictions', type=Path, help='folder of label maps that `tools/test.py … --out DIR` wrote')
    parser.add_argument('--out', type=Path, default=Path('predictions.png'), help='image file (default: %(default)s)')
    parser.add_argument('--images', type=positive_int, default=8, help='how many, evenly spaced in the data set')
    return parser.parse_args()


def paint(labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return the colours ``(H, W, 3)`` of a label map ``(H, W)``; labels outside the palette are unlabelled."""
    colours = np.full((256, 3), UNLABELLED, np.uint8)
    colours[: len(palette)] = palette
    return colours[labels]


def test_set(cfg: Config):
    """Build the test data set without its pipeline."""
    check_data(cfg, 'test_dataloader')
    with in_scope(cfg):
        dataset = DATASETS.build({**cfg.test_dataloader.dataset, 'pipeline': []})
    if 'img_path' not in dataset.get_data_info(0):
        raise UserError(f'the images of a {type(dataset).__name__} are no files: write them to a folder first')
    return dataset


def columns(cfg: Config, dataset, predictions: Path, count: int):
    """Yield name, image, ground truth and prediction of ``count`` images, the last two as label maps."""
    for index in np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int):
        info = dataset.get_data_info(int(index))
        name = Path(info['img_path']).stem
        prediction = predictions / f'{name}.png'
        if not prediction.is_file():
            raise UserError(f'prediction not found: {prediction}, run `tools/test.py CONFIG CHECKPOINT --out DIR`')
        with in_scope(cfg):
            truth = read_label_map(info, len(dataset.metainfo['classes']))
        labels = np.array(Image.open(prediction)) - np.uint8(bool(info['reduce_zero_label']))  # mmseg adds 1 again
        yield name, np.array(Image.open(info['img_path']).convert('RGB')), truth, labels


def main() -> None:
    args = parse_args()
    cfg = load_config(args.config)
    dataset = test_set(cfg)
    palette = np.array(dataset.metainfo['palette'], np.uint8)
    drawn = list(columns(cfg, dataset, args.predictions, args.images))

    size = (2.5 * len(drawn), 8.5)  # inches
    figure, axes = plt.subplots(len(ROWS), len(drawn), figsize=size, squeeze=False, layout='constrained')
    for axis, label in zip(axes[:, 0], ROWS, strict=True):
        axis.set_ylabel(label)
    for column, (name, image, truth, prediction) in zip(axes.T, drawn, strict=True):
        column[0].set_title(name)
        for axis, panel in zip(column, (image, paint(truth, palette), paint(prediction, palette)), strict=True):
            axis.imshow(panel)
            axis.set(xticks=[], yticks=[])
    legend = [
        Patch(facecolor=colour / 255, edgecolor='grey', label=label)
        for label, colour in zip(dataset.metainfo['classes'], palette, strict=True)
    ]
    legend.append(Patch(facecolor=np.array(UNLABELLED) / 255, edgecolor='grey', label='unlabelled'))
    figure.legend(handles=legend, loc='outside lower center', ncols=min(len(legend), 7), frameon=False)
    with atomic_path(args.out) as path:
        figure.savefig(path, dpi=80)
    print(args.out)


if __name__ == '__main__':
    run_tool(main)
