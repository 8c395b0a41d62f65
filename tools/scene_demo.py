"""Segment one image of any size, such as a satellite scene, and write its label map.

The whole image is segmented in one pass; its activations are held for a window at a time. This needs a ViTTM with a
fixed process grid and a convolutional decode head. Any segmentor can slide over the image instead (--mode slide).
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from mmvittm.apis.cli import device, positive_int, run_tool
from mmvittm.scenes import MODES, load_segmentor, predict_scene


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', type=Path, help='config of a segmentor')
    parser.add_argument('checkpoint', type=Path, help='checkpoint file')
    parser.add_argument('image', type=Path, help='RGB image of 8 bits: TIFF, PNG or JPEG')
    parser.add_argument(
        '--out', type=Path, required=True, metavar='LABELS', help='TIFF, with the georeference of the image, or PNG'
    )
    parser.add_argument('--preview', type=Path, help='painted image (default: LABELS with the ending _preview.png)')
    parser.add_argument('--mode', choices=MODES, default=MODES[0], help='one pass, or sliding window (default: whole)')
    memory_help = 'limit for --mode whole, besides model and libraries'
    parser.add_argument('--memory', type=float, metavar='GB', help=memory_help)
    parser.add_argument('--reduce', type=positive_int, default=1, metavar='N', help='first reduce it by this factor')
    parser.add_argument('--device', type=device, default='cpu', help='such as cuda or cuda:1 (default: cpu)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    model = load_segmentor(args.config, args.checkpoint)
    preview = args.preview or args.out.with_name(f'{args.out.stem}_preview.png')
    with Progress(console=Console(stderr=True)) as progress:
        predict_scene(
            model.to(args.device),
            args.image,
            args.out,
            mode=args.mode,
            memory=args.memory and args.memory * 1e9,
            preview=preview,
            progress=progress,
            reduce=args.reduce,
        )
    print(f'Wrote {args.out} and {preview}')


if __name__ == '__main__':
    run_tool(main)
