"""Convert a checkpoint of ViTTM's authors to mmvittm, and print the matching backbone config.

Load the result with
    init_cfg=dict(type='Pretrained', checkpoint='DST', prefix='backbone.')
"""

import argparse
from pathlib import Path

from conversion import add_arch_options, arch_options, check_fit, convert_file, converter_parser, print_config
from torch import Tensor

from mmvittm.apis.cli import run_tool
from mmvittm.weights import authors_to_mmvittm, infer_authors_arch


def parse_args() -> argparse.Namespace:
    parser = converter_parser(__doc__, "weights in the authors' layout")
    add_arch_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    def convert(checkpoint: dict) -> dict[str, Tensor]:
        inferred = infer_authors_arch(checkpoint, **arch_options(args))
        ours = authors_to_mmvittm(checkpoint)
        check_fit(inferred['backbone'], ours)
        classes = inferred['num_classes']
        print_config(
            inferred['backbone'], f'# with a classifier of {classes} classes' if classes else '# no classifier'
        )
        return ours

    convert_file(args.src, args.dst, Path(__file__).name, convert)


if __name__ == '__main__':
    run_tool(main)
