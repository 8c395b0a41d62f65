"""Baseline for Blue Marble: gradient-boosted trees on the colour of a pixel and its surroundings, and on latitude."""

import argparse
import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import torch
from mmseg.evaluation import IoUMetric
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmvittm.apis.cli import positive_int, run_tool
from mmvittm.datasets import BlueMarbleDataset
from mmvittm.errors import UserError, install_command
from mmvittm.fileio import atomic_path

try:
    from sklearn.ensemble import HistGradientBoostingClassifier
except ModuleNotFoundError:
    sys.exit(f'error: scikit-learn is not installed: run `{install_command("demo")}`')

BOX_SIZES = (9, 33)  # pixels
DEGREES_PER_PIXEL = 180 / 2700
TREES_PER_STEP = 10  # per update of the progress bar
CLASSES = BlueMarbleDataset.METAINFO['classes']


def load(data_root: Path, fold: int, held_out: bool) -> BlueMarbleDataset:
    """Load a side of a fold: images ``img``, uint8 of shape (H, W, 3), and labels ``gt_seg_map`` of shape (H, W)."""
    folders = dict(img_path='images', seg_map_path='annotations')
    for folder in folders.values():
        if not any((data_root / folder).rglob('*.png')):
            raise UserError(
                f'{data_root / folder} has no PNG files: build the data with '
                f'`python tools/dataset_converters/blue_marble.py {data_root}`'
            )
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='mmseg.LoadAnnotations'),
        dict(type='mmvittm.CheckLabels', num_classes=len(CLASSES)),
    ]
    return BlueMarbleDataset(
        data_root=str(data_root), data_prefix=folders, pipeline=pipeline, fold=fold, held_out=held_out
    )


def features(item: dict, latitude: bool = False) -> np.ndarray:
    """Compute the colour of each pixel and of the boxes around it, and its latitude in degrees: (H * W, 9 or 10)."""
    image = item['img'].astype(np.float32)
    maps = [image, *(cv2.blur(image, (size, size)) for size in BOX_SIZES)]
    if latitude:
        height, width = image.shape[:2]
        row = int(Path(item['img_path']).stem[1:].partition('_')[0])  # r{row}_c{column:02d}.png
        degrees = np.float32(90 - (row * height + np.arange(height) + 0.5) * DEGREES_PER_PIXEL)
        maps.append(np.broadcast_to(degrees[:, None, None], (height, width, 1)))
    maps = np.concatenate(maps, axis=-1)
    return maps.reshape(-1, maps.shape[-1])


def sample(
    dataset: BlueMarbleDataset, num_pixels: int, rng: np.random.Generator, latitude: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Draw labelled pixels, equally many from each image, and return their features and labels."""
    drawn = []
    for item in track(dataset, 'Sampling pixels', console=Console(stderr=True)):
        labels = item['gt_seg_map'].ravel()
        labelled = np.flatnonzero(labels != dataset.ignore_index)
        pixels = rng.choice(labelled, min(len(labelled), max(1, num_pixels // len(dataset))), replace=False)
        drawn.append((features(item, latitude)[pixels], labels[pixels]))
    x, y = zip(*drawn, strict=True)
    return np.concatenate(x), np.concatenate(y)


def fit(x: np.ndarray, y: np.ndarray, iterations: int, seed: int) -> HistGradientBoostingClassifier:
    """Fit ``iterations`` boosting rounds, without early stopping."""
    model = HistGradientBoostingClassifier(warm_start=True, early_stopping=False, random_state=seed)
    steps = [*range(TREES_PER_STEP, iterations, TREES_PER_STEP), iterations]
    for max_iter in track(steps, 'Boosting', console=Console(stderr=True)):
        model.set_params(max_iter=max_iter).fit(x, y)
    return model


def evaluate(
    model: HistGradientBoostingClassifier, dataset: BlueMarbleDataset, latitude: bool = False
) -> dict[str, np.ndarray]:
    """Compute ``aAcc``, and ``IoU`` and ``Acc`` of each class, in percent over all labelled pixels."""
    areas = []
    for item in track(dataset, 'Evaluating', console=Console(stderr=True)):
        predicted = torch.from_numpy(model.predict(features(item, latitude)))
        labels = torch.from_numpy(item['gt_seg_map'].ravel())
        areas.append(IoUMetric.intersect_and_union(predicted, labels, len(CLASSES), dataset.ignore_index))
    totals = [sum(area) for area in zip(*areas, strict=True)]
    return {name: value * 100 for name, value in IoUMetric.total_area_to_metrics(*totals).items()}


def report(metrics: dict[str, np.ndarray]) -> Table:
    """Tabulate IoU and accuracy of each class and their means."""
    table = Table('class', 'IoU', 'Acc', title='Held-out tiles (%)')
    for name, iou, acc in zip(CLASSES, metrics['IoU'], metrics['Acc'], strict=True):
        table.add_row(name, f'{iou:.2f}', f'{acc:.2f}', end_section=name == CLASSES[-1])
    table.add_row('mean', f'{np.nanmean(metrics["IoU"]):.2f}', f'{np.nanmean(metrics["Acc"]):.2f}')
    return table


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Fit gradient-boosted trees to the colour of each pixel and its means over boxes of '
        f'{" and ".join(map(str, BOX_SIZES))} pixels, and report the mIoU on the held-out Blue Marble tiles.',
    )
    parser.add_argument(
        'data_root',
        nargs='?',
        type=Path,
        default=Path('data/blue_marble'),
        help='Blue Marble folder (default: %(default)s)',
    )
    parser.add_argument(
        '--fold',
        type=int,
        default=2,
        choices=range(BlueMarbleDataset.FOLDS),
        help='fold whose tile columns are held out (default: %(default)s)',
    )
    parser.add_argument('--latitude', action='store_true', help='let the trees see the latitude of each pixel too')
    parser.add_argument(
        '--pixels',
        type=positive_int,
        default=200_000,
        help='number of training pixels, at least one per tile (default: %(default)s)',
    )
    parser.add_argument('--iterations', type=positive_int, default=100, help='boosting rounds (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='random seed (default: %(default)s)')
    parser.add_argument('--out', type=Path, help='JSON file to write the result to')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    training, held_out = (load(args.data_root, args.fold, side) for side in (False, True))
    console = Console()
    with atomic_path(args.out) if args.out else nullcontext() as out:
        start = time.perf_counter()
        x, y = sample(training, args.pixels, np.random.default_rng(args.seed), args.latitude)
        model = fit(x, y, args.iterations, args.seed)
        fitted = time.perf_counter()
        metrics = evaluate(model, held_out, args.latitude)
        seconds = dict(fit=round(fitted - start, 1), evaluate=round(time.perf_counter() - fitted, 1))
        console.print(report(metrics))
        console.print(f'{len(y)} training pixels; sampled and fitted in {seconds["fit"]} s', end='')
        console.print(f', evaluated in {seconds["evaluate"]} s')
        if out:
            result = dict(
                mIoU=round(float(np.nanmean(metrics['IoU'])), 2),
                aAcc=round(float(metrics['aAcc']), 2),
                IoU={name: round(float(iou), 2) for name, iou in zip(CLASSES, metrics['IoU'], strict=True)},
                fold=args.fold,
                latitude=args.latitude,
                pixels=len(y),
                iterations=args.iterations,
                seed=args.seed,
                seconds=seconds,
            )
            out.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
    if args.out:
        print(f'Wrote {args.out}')


if __name__ == '__main__':
    run_tool(main)
