"""Write classification data as ``{train,val}/<class>/<number>.png``, the folder layout of mmpretrain."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from output import is_kept, output_parser
from PIL import Image
from rich.console import Console
from rich.progress import track

from mmvittm.fileio import atomic_folder

KIND = 'data set of train and val'


class Split(NamedTuple):
    """Images and labels of one split."""

    images: np.ndarray  # (N, H, W), uint8
    labels: np.ndarray  # (N,)


def convert(description: str, out_dir: str, classes: tuple[str, ...], read: Callable[[], Mapping[str, Split]]) -> None:
    """Run a converter: parse the command line and write the splits atomically.

    Args:
        description (str): Description of the tool.
        out_dir (str): Default folder to write.
        classes (tuple[str, ...]): Folder name of each label. mmpretrain numbers classes alphabetically.
        read (Callable): Returns the splits 'train' and 'val'.

    Raises:
        UserError: If the folder holds other files or cannot be written.
    """
    args = output_parser(description, out_dir, KIND).parse_args()
    if is_kept(args, KIND, 'train', 'val'):
        return
    splits = read()
    with atomic_folder(args.out_dir) as folder:
        for name, split in splits.items():
            _write(folder / name, split, classes)
    counts = ', '.join(f'{len(split.labels)} images in {name}' for name, split in splits.items())
    print(f'Wrote {args.out_dir}: {counts}')


def _write(folder: Path, split: Split, classes: tuple[str, ...]) -> None:
    for name in classes:
        (folder / name).mkdir(parents=True)
    console = Console(stderr=True)
    for number, image in enumerate(track(split.images, f'Writing {folder.name}', console=console)):
        Image.fromarray(image).save(folder / classes[split.labels[number]] / f'{number:05d}.png')
