"""Export a segmentor or a classifier to a file that runs without mmvittm, and check it against PyTorch.

The file takes normalised images (B, 3, H, W) of one size and any batch size, and returns the logits. A segmentor's
logits are on a coarser grid than the pixels. The metadata entry `mmvittm`, JSON, says how to prepare images and what
the logits mean. The file is written only if its outputs agree with those of the model in PyTorch.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from rich.console import Console
from rich.progress import track

from mmvittm.apis.cli import run_tool
from mmvittm.apis.config import load_config
from mmvittm.apis.inference import class_names, images_in, load_model, read_image
from mmvittm.apis.tasks import Task, inference_network, task_of
from mmvittm.deploy import FORMATS
from mmvittm.deploy.images import prepare, sample_images
from mmvittm.deploy.metadata import ExportMetadata, normalisation
from mmvittm.deploy.verify import TOLERANCES, verify
from mmvittm.errors import UserError
from mmvittm.fileio import require_writable

RANDOM = 'none'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', type=Path, help='config file')
    parser.add_argument('checkpoint', type=Path, help=f'checkpoint file, or `{RANDOM}` for random weights')
    parser.add_argument('--format', choices=FORMATS, required=True, help='file format')
    parser.add_argument(
        '--shape',
        type=int,
        nargs='+',
        required=True,
        metavar=('H', 'W'),
        help='image size in pixels, one or two numbers',
    )
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='output folder')
    precision = parser.add_mutually_exclusive_group()
    # int8 has its own flag since it needs images
    precision.add_argument(
        '--dtype',
        choices=[name for name in TOLERANCES if name != 'int8'],
        default='fp32',
        help='data type to compute in (default: fp32)',
    )
    precision.add_argument('--int8', type=Path, metavar='FOLDER', help='quantise to int8, calibrated on these images')
    parser.add_argument(
        '--images',
        type=Path,
        metavar='FOLDER',
        help="images for the check (default: those of --int8, the config's test data, or a photograph)",
    )
    return parser.parse_args()


def shape_of(args: argparse.Namespace, cfg: Config) -> tuple[int, int]:
    height, width = shape = args.shape[0], args.shape[-1]
    if len(args.shape) > 2 or min(shape) < 1:
        raise UserError(f'--shape takes one or two whole numbers above 0, not {" ".join(map(str, args.shape))}')
    preprocessor = cfg.model.get('data_preprocessor') or {}
    divisor = (preprocessor.get('test_cfg') or {}).get('size_divisor')
    if divisor and (height % divisor or width % divisor):
        below, above = (tuple(max(1, side // divisor + more) * divisor for side in shape) for more in (0, 1))
        raise UserError(
            f'--shape {height} {width} is not a multiple of the patch size {divisor}: choose '
            f'{below[0]} {below[1]} or {above[0]} {above[1]}'
        )
    return shape


def make_metadata(
    args: argparse.Namespace, cfg: Config, model: torch.nn.Module, task: Task, dataset_meta: dict
) -> ExportMetadata:
    if getattr(task.head(model), 'out_channels', None) == 1:
        raise UserError('the export of a head with one logit for two classes is not supported: set out_channels=2')
    return ExportMetadata(
        task=task.name,
        shape=shape_of(args, cfg),
        fit=task.fit,
        **normalisation(model.data_preprocessor),
        pad_value=float(getattr(model.data_preprocessor, 'pad_val', 0)),
        align_corners=bool(getattr(task.head(model), 'align_corners', False)),
        **class_names(cfg, task.head(model), dataset_meta),
        config=args.config.stem,
        checkpoint=None if args.checkpoint is None else args.checkpoint.name,
    )


def calibration_images(folder: Path | None, metadata: ExportMetadata) -> list[np.ndarray] | None:
    """Return the images of ``folder`` as batches of one."""
    if folder is None:
        return None
    paths = track(images_in(folder), 'reading calibration images', console=Console(stderr=True))
    return [prepare(read_image(path), metadata)[0][None] for path in paths]


def main() -> None:
    args = parse_args()
    console = Console(soft_wrap=True)
    if str(args.checkpoint) == RANDOM:
        args.checkpoint = None
        console.print('[yellow]random weights: use this export for timing only')
    dtype = 'int8' if args.int8 else args.dtype
    format = FORMATS[args.format]
    format.check(dtype)
    require_writable(args.out)

    cfg = load_config(args.config)
    torch.manual_seed(0)
    model, dataset_meta = load_model(cfg, args.checkpoint)
    task = task_of(model)
    metadata = make_metadata(args, cfg, model, task, dataset_meta)
    calibration = calibration_images(args.int8, metadata)
    images = np.stack([prepare(image, metadata)[0] for image in sample_images(cfg, args.images or args.int8)])

    network = inference_network(model)
    name = '_'.join((metadata.config, '{}x{}'.format(*metadata.shape), dtype))
    # beside the files to write, so that they can be moved
    with (
        tempfile.TemporaryDirectory(prefix='.export-', dir=args.out) as staging,
        Console(stderr=True).status('exporting') as status,
    ):
        path = Path(staging, name + format.suffix)
        format.export(network, torch.from_numpy(images), path, dtype, dataclasses.asdict(metadata), calibration)
        status.update('checking')
        measured = verify(network, format.load(path), metadata, images, dtype)
        # the file that refers to the others comes last, so that it is never there without them
        for file in reversed(format.files(path)):
            file.replace(args.out / file.name)
    console.print(f'{measured} of {"images" if task.name == "classification" else "pixels"}')
    print(args.out / path.name)


if __name__ == '__main__':
    run_tool(main)
