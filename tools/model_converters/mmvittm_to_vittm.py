"""Convert weights or a training checkpoint of mmvittm to the layout of ViTTM's authors.

If training kept an exponential moving average, the averaged weights are converted. Of a segmentor, only the backbone is
converted. The authors' model has a few weights that it never uses; they are not written, so load the result with
strict=False.
"""

import argparse
from pathlib import Path

from conversion import add_arch_options, arch_options, check_fit, convert_file, converter_parser, print_config
from rich.console import Console
from torch import Tensor

from mmvittm.apis.cli import run_tool
from mmvittm.weights import authors_to_mmvittm, infer_authors_arch, mmvittm_to_authors
from mmvittm.weights.loading import unwrapped

ASSUMED = """\
# The authors' code takes the weights for those of this model. Focused attention, rw_region, alibi_slopes and another
# eps do not show in weights: a model that has them gives other outputs there."""
# Modules of a segmentor that the authors' layout, a classifier's, does not have.
SEGMENTOR_ONLY = ('neck.', 'decode_head.', 'auxiliary_head.', 'data_preprocessor.')


def parse_args() -> argparse.Namespace:
    parser = converter_parser(__doc__, 'weights of mmvittm')
    add_arch_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    console = Console()

    def convert(checkpoint: dict) -> dict[str, Tensor]:
        weights = unwrapped(checkpoint)
        ours = {key: value for key, value in weights.items() if not key.startswith(SEGMENTOR_ONLY)}
        theirs = mmvittm_to_authors(ours)
        backbone = infer_authors_arch(theirs, **arch_options(args))['backbone']
        check_fit(backbone, authors_to_mmvittm(theirs))
        if 'ema_state_dict' in checkpoint:
            console.print('Converted the averaged weights.')
        if len(ours) < len(weights):
            console.print(f'Dropped {len(weights) - len(ours)} weights of neck and heads.')
        print_config(backbone, ASSUMED)
        return theirs

    convert_file(args.src, args.dst, Path(__file__).name, convert)


if __name__ == '__main__':
    run_tool(main)
