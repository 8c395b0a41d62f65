"""Initialise a ViTTM from a plain ViT or DeiT of timm or mmpretrain.

The blocks and the final norm are copied. The patch embedding is resized to both patch sizes (FlexiViT's
pseudo-inverse), and the position embedding is resampled to both grids. Read and write heads and their norms are
initialised randomly, so the model must be trained.
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
    parser.add_argument('--arch', choices=tuple(ViTTM.arch_zoo), help='stop unless the ViT has this arch')
    parser.add_argument('--num-heads', type=int, metavar='N', help='attention heads (default: one per 64 channels)')
    parser.add_argument(
        '--memory-patch', type=int, default=28, metavar='PIXELS', help='memory patch size (default: %(default)s)'
    )
    parser.add_argument(
        '--process-patch', type=int, default=28, metavar='PIXELS', help='process patch size (default: %(default)s)'
    )
    parser.add_argument('--img-size', type=int, default=224, metavar='PIXELS', help='image size (default: %(default)s)')
    parser.add_argument(
        '--kernel', choices=KERNELS, default='bilinear', help='kernel that resizes patches (default: %(default)s)'
    )
    parser.add_argument('--seed', type=int, default=0, help='random seed (default: %(default)s)')
    return parser.parse_args()


def counts(report: VitInit) -> Table:
    """Tabulate how many weights were copied, resized, initialised randomly and dropped, and of which modules."""
    table = Table(box=None)
    for title in ('', 'weights', 'modules'):
        table.add_column(title, justify='right' if title == 'weights' else 'left')
    for name, keys in vars(report).items():
        table.add_row(name, str(len(keys)), ', '.join(dict.fromkeys(map(module_of, keys))) or '–')
    return table


def module_of(key: str) -> str:
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
        MMLogger.get_current_instance().setLevel('WARNING')  # init_weights logs every weight
        model.init_weights()
        report = init_from_vit(model, vit, args.kernel)
        print_config(backbone)
        Console().print(counts(report))
        return {f'backbone.{key}': value for key, value in model.state_dict().items()}

    convert_file(args.src, args.dst, Path(__file__).name, convert, kernel=args.kernel, seed=args.seed)


if __name__ == '__main__':
    run_tool(main)
