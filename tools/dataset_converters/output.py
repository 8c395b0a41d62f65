"""The output folder of a converter: its arguments, and whether it is there already."""

import argparse
from pathlib import Path

from mmvittm.errors import UserError


def output_parser(description: str, out_dir: str, kind: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    out_help = 'folder to write (default: %(default)s)'
    parser.add_argument('out_dir', nargs='?', type=Path, default=Path(out_dir), help=out_help)
    parser.add_argument('--overwrite', action='store_true', help=f'replace an existing {kind}')
    return parser


def is_there(out: Path, kind: str, marker: str, *others: str) -> bool:
    """Return True if ``out`` holds a ``kind``. Converters write whole folders, so one ``marker`` in it tells.

    Args:
        out (Path): The output folder.
        kind (str): What the converter writes, in words.
        marker (str): A file or folder that every ``kind`` has and nothing else, such as ``images/earth.png``.
        *others (str): Other names at the top of a ``kind``.

    Raises:
        UserError: If ``out`` is a file or holds anything else.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f'{out} is a file: name a folder')
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    if names and (names - {Path(marker).parts[0], *others} or not (out / marker).exists()):
        raise UserError(f'{out} holds other files than a {kind}: name a new folder')
    return bool(names)


def is_kept(args: argparse.Namespace, kind: str, marker: str, *others: str) -> bool:
    """Return True, and say so, if the output folder is there and is not to be replaced.

    Raises:
        UserError: If ``out_dir`` holds anything else, or lacks images or label maps and is not to be replaced.
    """
    if not is_there(args.out_dir, kind, marker, *others) or args.overwrite:
        return False
    images, maps = ({path.name for path in (args.out_dir / name).rglob('*.png')} for name in ('images', 'annotations'))
    if images != maps:
        raise UserError(f'{args.out_dir} is not a complete {kind}: pass --overwrite to replace it')
    print(f'{args.out_dir} is already there; pass --overwrite to build it again.')
    return True
