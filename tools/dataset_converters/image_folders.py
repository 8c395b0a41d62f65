"""What the converters of classification data share: the folders ``{train,val}/<class>/<number>.png`` of mmpretrain."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from mmvittm.errors import UserError
from mmvittm.fileio import atomic_folder


class Split(NamedTuple):
    """The images of a split and the class of each."""

    images: np.ndarray  # (N, H, W), uint8
    labels: np.ndarray  # (N,)


def hold_out_fifth(images: np.ndarray, labels: np.ndarray) -> dict[str, Split]:
    """Split a data set that comes whole: every fifth image of each class, in the order given, is for validation."""
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        held_out[np.flatnonzero(labels == label)[::5]] = True
    return {'train': Split(images[~held_out], labels[~held_out]), 'val': Split(images[held_out], labels[held_out])}


def convert(description: str, out_dir: str, classes: tuple[str, ...], read: Callable[[], Mapping[str, Split]]) -> None:
    """The ``main`` of a converter: write what ``read`` gives, whole or not at all.

    Args:
        description (str): Of the tool.
        out_dir (str): Folder to write if the command names none.
        classes (tuple[str, ...]): Folder of each label. mmpretrain numbers classes by the alphabet of these names.
        read (Callable): Gives the splits 'train' and 'val'.

    Raises:
        UserError: If the folder must not be replaced or cannot be written.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        'out_dir', nargs='?', type=Path, default=Path(out_dir), help='folder to write (default: %(default)s)'
    )
    parser.add_argument('--overwrite', action='store_true', help='replace a data set that is there')
    args = parser.parse_args()
    console = Console()
    found = _found(args.out_dir)
    if found and not args.overwrite:
        console.print(f'{args.out_dir} is already there; pass --overwrite to build it again.', soft_wrap=True)
        return
    splits = read()
    with atomic_folder(args.out_dir) as folder:
        for name, split in splits.items():
            _write(folder / name, split, classes)
    counts = ', '.join(f'{len(split.labels)} images in {name}' for name, split in splits.items())
    console.print(f'Wrote {args.out_dir}: {counts}', soft_wrap=True)


def _found(out: Path) -> set[str]:
    """What is in ``out``, which must be nothing or a data set of this layout."""
    if out.exists() and not out.is_dir():
        raise UserError(f'{out} is a file: name a folder.')
    found = {path.name for path in out.iterdir()} if out.exists() else set()
    if found - {'train', 'val'}:
        raise UserError(f'{out} holds other files than a data set of train and val: name a new folder.')
    return found


def _write(folder: Path, split: Split, classes: tuple[str, ...]) -> None:
    for name in classes:
        (folder / name).mkdir(parents=True)
    console = Console(stderr=True)
    for number, image in enumerate(track(split.images, f'Writing {folder.name}', console=console)):
        Image.fromarray(image).save(folder / classes[split.labels[number]] / f'{number:05d}.png')
