"""Write digit scenes to a folder: images, label maps, and instances.json with boxes and masks in COCO's format.

Training needs no folder, since mmvittm.DigitScenesDataset makes the same scenes when it loads them. To look at some:

    python tools/dataset_converters/digit_scenes.py --grid scenes.png
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from output import is_there, output_parser
from PIL import Image
from rich.console import Console
from rich.progress import track

from mmvittm.apis.cli import positive_int, run_tool
from mmvittm.datasets import DigitScenesDataset
from mmvittm.datasets.digit_scenes import DigitScene, file_name, make_scene
from mmvittm.errors import UserError
from mmvittm.fileio import atomic_folder, atomic_path

KIND = 'data set of digit scenes'
PALETTE = np.uint8(DigitScenesDataset.METAINFO['palette'])


def parse_args() -> argparse.Namespace:
    parser = output_parser(__doc__, 'data/digit_scenes', KIND)
    parser.add_argument('--grid', type=Path, metavar='PNG', help='only draw 12 scenes and their labels into this file')
    parser.add_argument('--backgrounds', default='data/blue_marble', help='Blue Marble data set (default: %(default)s)')
    parser.add_argument('--fold', type=int, default=2, help='fold of the backgrounds (default: 2)')
    parser.add_argument('--held-out', action='store_true', help='held-out backgrounds and digits')
    parser.add_argument('--scenes', type=positive_int, default=1000, help='number of scenes (default: 1000)')
    parser.add_argument('--side', type=int, default=256, help='pixels, twice the largest digit or more (default: 256)')
    parser.add_argument(
        '--sizes', type=positive_int, nargs=2, default=(24, 96), metavar=('MIN', 'MAX'),
        help='smallest and largest digit in pixels (default: 24 96)',
    )  # fmt: skip
    parser.add_argument('--plain', action='store_true', help='light grey digits on black, not on the backgrounds')
    parser.add_argument('--seed', type=int, default=0, help='(default: 0)')
    return parser.parse_args()


def grid(scenes: list[DigitScene]) -> Image.Image:
    """Scenes in three rows, each above its labels."""
    pairs = [np.concatenate([scene.image, PALETTE[scene.labels]]) for scene in scenes]
    columns = len(pairs) // 3
    return Image.fromarray(
        np.concatenate([np.concatenate(pairs[i : i + columns], 1) for i in range(0, len(pairs), columns)])
    )


def run_lengths(mask: np.ndarray) -> dict:
    """COCO's run lengths, column by column, background first; polygons would fill the holes of a 0."""
    ends = np.flatnonzero(np.diff(mask.ravel(order='F'), prepend=False))
    return dict(size=list(mask.shape), counts=np.diff([0, *ends, mask.size]).tolist())


def annotations(scene: DigitScene, image_id: int, first_id: int) -> list[dict]:
    """Instances of a scene as COCO has them: category 1 to 10, box ``[x, y, w, h]``, mask of the visible pixels."""
    entries = []
    for digit, mask in zip(scene.digits, scene.masks, strict=True):
        entries.append(
            dict(
                id=first_id + len(entries),
                image_id=image_id,
                category_id=int(digit) + 1,
                bbox=list(cv2.boundingRect(mask.astype(np.uint8))),
                area=int(mask.sum()),
                segmentation=run_lengths(mask),
                iscrowd=0,
            )
        )
    return entries


def main() -> None:
    args = parse_args()
    if not Path(args.backgrounds, 'images').is_dir():
        raise UserError(f'{args.backgrounds} holds no Blue Marble data set: make it with `mmvittm data blue-marble`')
    count = 12 if args.grid else args.scenes
    dataset = DigitScenesDataset(
        args.backgrounds, args.fold, args.held_out, count, args.side, args.seed, args.sizes, args.plain
    )
    scenes = (make_scene(number, **dataset.scene) for number in range(count))
    if args.grid:
        with atomic_path(args.grid) as path:
            grid(list(scenes)).save(path)
        print(f'Wrote {args.grid}')
        return
    if is_there(args.out_dir, KIND, 'instances.json', 'images', 'annotations') and not args.overwrite:
        raise UserError(f'{args.out_dir} exists: pass --overwrite to replace it')
    coco = dict(images=[], annotations=[], categories=[dict(id=i + 1, name=str(i)) for i in range(10)])
    with atomic_folder(args.out_dir) as folder:
        for kind in ('images', 'annotations'):
            (folder / kind).mkdir()
        for number, scene in enumerate(
            track(scenes, 'Writing scenes', total=args.scenes, console=Console(stderr=True))
        ):
            name = file_name(number)
            Image.fromarray(scene.image).save(folder / 'images' / name)
            Image.fromarray(scene.labels).save(folder / 'annotations' / name)
            coco['images'].append(dict(id=number, file_name=name, height=args.side, width=args.side))
            coco['annotations'] += annotations(scene, number, len(coco['annotations']) + 1)
        (folder / 'instances.json').write_text(json.dumps(coco))
    print(f'Wrote {args.out_dir}: {args.scenes} scenes, {len(coco["annotations"])} digits')


if __name__ == '__main__':
    run_tool(main)
