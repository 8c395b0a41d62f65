"""Export a segmentor or a classifier to one file that runs without mmvittm, and check it against PyTorch.

The file takes normalised images (B, 3, H, W) of one size and any batch size and gives the logits of the head, of a
segmentor on a coarser grid than the pixels'. How to prepare images and what the logits mean is in its metadata, under
`mmvittm`, as JSON. Nothing is written unless the file gives the same numbers as the model it was made from.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from rich.console import Console
from rich.progress import Progress, track

from mmvittm.apis.cli import run_tool
from mmvittm.apis.config import load_config
from mmvittm.apis.tasks import inference_network
from mmvittm.deploy import FORMATS
from mmvittm.deploy.images import images_in, read_image, sample_images
from mmvittm.deploy.metadata import ModelCard, class_names, normalisation
from mmvittm.deploy.predict import load_model, num_classes
from mmvittm.deploy.preprocess import prepare
from mmvittm.deploy.tasks import Task, task_of
from mmvittm.deploy.verify import TOLERANCES, verify
from mmvittm.errors import UserError
from mmvittm.fileio import require_writable

RANDOM = 'none'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', type=Path, help='config file')
    parser.add_argument('checkpoint', type=Path, help=f'checkpoint file, or `{RANDOM}` for random weights')
    parser.add_argument('--format', choices=FORMATS, required=True, help='what to export to')
    parser.add_argument('--shape', type=int, nargs='+', required=True, metavar=('H', 'W'), help='size of the images')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder to write the file to')
    precision = parser.add_mutually_exclusive_group()
    # int8 has a flag of its own, since it needs images
    precision.add_argument('--dtype', choices=[name for name in TOLERANCES if name != 'int8'], default='fp32')
    precision.add_argument('--int8', type=Path, metavar='FOLDER', help='quantise; calibrate on the images there')
    parser.add_argument(
        '--images',
        type=Path,
        metavar='FOLDER',
        help="images to check the file on (default: of the config's test data, or a photograph if that is not there)",
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
            f'--shape {height} {width} is not made of whole patches of {divisor} pixels, choose between '
            f'{below[0]} {below[1]} and {above[0]} {above[1]}'
        )
    return shape


def make_card(args: argparse.Namespace, cfg: Config, model: torch.nn.Module, task: Task, meta: dict) -> ModelCard:
    return ModelCard(
        task=task.name,
        shape=shape_of(args, cfg),
        fit=task.fit,
        **normalisation(model.data_preprocessor),
        pad_value=float(getattr(model.data_preprocessor, 'pad_val', 0)),
        align_corners=bool(getattr(task.head(model), 'align_corners', False)),
        **class_names(cfg, meta, num_classes(model, task)),
        config=args.config.stem,
        checkpoint=None if args.checkpoint is None else args.checkpoint.name,
    )


def calibration_images(folder: Path | None, card: ModelCard) -> list[np.ndarray] | None:
    """Batches of one."""
    if folder is None:
        return None
    paths = track(images_in(folder), 'reading calibration images', console=Console(stderr=True))
    return [prepare(read_image(path), card)[0][None] for path in paths]


def main() -> None:
    args = parse_args()
    console = Console(soft_wrap=True)
    if str(args.checkpoint) == RANDOM:
        args.checkpoint = None
        console.print('[yellow]random weights: this export is good for timing only')
    dtype = 'int8' if args.int8 else args.dtype
    format = FORMATS[args.format]
    format.check(dtype)

    cfg = load_config(args.config)
    torch.manual_seed(0)
    model, meta = load_model(cfg, args.checkpoint)
    task = task_of(model)
    card = make_card(args, cfg, model, task, meta)
    calibration = calibration_images(args.int8, card)
    images = np.stack([prepare(image, card)[0] for image in sample_images(cfg, args.images or args.int8)])

    network = inference_network(model)
    name = '_'.join((card.config, '{}x{}'.format(*card.shape), dtype))
    with staging_folder(args.out) as staging, Progress(console=Console(stderr=True)) as progress:
        step = progress.add_task('exporting', total=4)
        path = Path(staging, name + format.suffix)
        format.export(network, torch.from_numpy(images), path, dtype, card.as_dict(), calibration)
        progress.update(step, advance=1, description='checking')
        session = format.load(path)
        measured = verify(network, session, task, card, images, dtype, lambda: progress.advance(step))
        # the file that names the others last: whoever finds it finds all
        for part in reversed(format.files(path)):
            part.replace(args.out / part.name)
    console.print(f'{measured} of {"images" if task.name == "classification" else "pixels"}')
    console.print(args.out / path.name)


def staging_folder(out: Path) -> tempfile.TemporaryDirectory:
    """A folder beside the files to write, removed in the end."""
    require_writable(out)
    try:
        return tempfile.TemporaryDirectory(prefix='.export-', dir=out)
    except OSError as error:
        raise UserError(f'cannot write to {out}: {error.strerror}, choose a folder you can write to') from error


if __name__ == '__main__':
    run_tool(main)
