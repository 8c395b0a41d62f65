"""Start a ViTTM from a plain ViT or DeiT in the layout of timm or mmpretrain.

Blocks and final norm are copied, the patch embedding is resized to both patch sizes (FlexiViT's pseudo-inverse), the
position embedding resampled to both grids. Read and write heads and their norms are drawn anew; train the model.
"""

import argparse
from pathlib import Path

import torch
from conversion import convert_file, converter_parser, print_config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mmvittm.apis.cli import run_tool
from mmvittm.errors import UserError
from mmvittm.models import ViTTM
from mmvittm.weights import PlainVit, init_from_vit
from mmvittm.weights.patch_resize import KERNELS
from mmvittm.weights.plain_vit import VitInit


def parse_args() -> argparse.Namespace:
    parser = converter_parser(__doc__, 'weights of a ViT')
    parser.add_argument('--arch', choices=tuple(ViTTM.arch_zoo), help='what the ViT must be (default: whatever it is)')
    parser.add_argument('--num-heads', type=int, metavar='N', help='attention heads (default: one for 64 channels)')
    parser.add_argument('--memory-patch', type=int, default=28, metavar='PIXELS', help='default: %(default)s')
    parser.add_argument('--process-patch', type=int, default=28, metavar='PIXELS', help='default: %(default)s')
    parser.add_argument('--img-size', type=int, default=224, metavar='PIXELS', help='default: %(default)s')
    parser.add_argument(
        '--kernel', choices=KERNELS, default='bilinear', help='how patches are resized (default: %(default)s)'
    )
    parser.add_argument('--seed', type=int, default=0, help='for what is drawn anew (default: %(default)s)')
    return parser.parse_args()


def counts(report: VitInit) -> Table:
    """How many weights were copied, resized, drawn anew and left out, by part."""
    table = Table(box=None)
    for title in ('', 'weights', 'parts'):
        table.add_column(title, justify='right' if title == 'weights' else 'left')
    rows = dict(copied=report.copied, resized=report.resized, fresh=report.fresh, left_out=report.left_out)
    for name, keys in rows.items():
        table.add_row(name.replace('_', ' '), str(len(keys)), ', '.join(dict.fromkeys(map(part_of, keys))) or '–')
    return table


def part_of(key: str) -> str:
    """``layers.3.read_head.q.weight`` -> ``read_head``."""
    names = key.split('.')
    return names[2] if names[0] == 'layers' else names[0]


def main() -> None:
    args = parse_args()

    def convert(checkpoint: dict) -> dict[str, Tensor]:
        vit = PlainVit.from_state_dict(checkpoint)
        options = vit.backbone_options(args.num_heads)
        if args.arch not in (None, options['arch']):
            raise UserError(f'this ViT has the arch {options["arch"]!r}, not {args.arch!r}')
        backbone = dict(
            type='mmvittm.ViTTM',
            img_size=args.img_size,
            memory_embed=dict(type='PatchTokens', patch_size=args.memory_patch),
            process_embed=dict(type='PatchTokens', patch_size=args.process_patch),
            **options,
        )
        torch.manual_seed(args.seed)
        model = MODELS.build(backbone)
        MMLogger.get_current_instance().setLevel('WARNING')  # initialising tells of every weight
        model.init_weights()
        report = init_from_vit(model, vit, args.kernel)
        print_config(backbone)
        Console().print(counts(report))
        return {f'backbone.{key}': value for key, value in model.state_dict().items()}

    convert_file(args.src, args.dst, Path(__file__).name, convert, kernel=args.kernel, seed=args.seed)


if __name__ == '__main__':
    run_tool(main)
