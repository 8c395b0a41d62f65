"""Shared by the converters: arguments, reading and writing weights, and a record of their source."""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor

import mmvittm
from mmvittm.errors import UserError
from mmvittm.fileio import atomic_path
from mmvittm.weights.loading import load_checkpoint_file
from mmvittm.weights.mismatch import describe_mismatch
from mmvittm.weights.saving import PYTORCH_SUFFIXES, check_suffix, serialize, sha256


def converter_parser(description: str, source: str) -> argparse.ArgumentParser:
    """Create a parser with SRC and DST."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', type=Path, metavar='SRC', help=f'{source}: a PyTorch file or .safetensors')
    parser.add_argument(
        'dst',
        type=Path,
        metavar='DST',
        help=f'file to write: {", ".join(PYTORCH_SUFFIXES)} for mmengine, or .safetensors',
    )
    return parser


def add_arch_options(parser: argparse.ArgumentParser) -> None:
    """Add options for what the shapes of the weights cannot tell."""
    parser.add_argument('--num-heads', type=int, metavar='N', help='attention heads (default: one per 64 channels)')
    parser.add_argument(
        '--fusion',
        choices=('AddFusion', 'EraseFusion'),
        default='AddFusion',
        help='fusion of a model without gates (default: %(default)s)',
    )
    parser.add_argument(
        '--img-size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='image size of the position embeddings, in pixels (default: the size that makes both grids square)',
    )


def arch_options(args: argparse.Namespace) -> dict:
    """Return the options of :func:`add_arch_options` as arguments of ``infer_authors_arch``."""
    return dict(num_heads=args.num_heads, fusion=args.fusion, img_size=args.img_size and tuple(args.img_size))


def convert_file(
    src: Path, dst: Path, tool: str, convert: Callable[[dict], dict[str, Tensor]], **notes: object
) -> None:
    """Convert one file; ``dst`` appears only when it is complete.

    Args:
        src (Path): The weights to convert.
        dst (Path): The file to write.
        tool (str): The tool's file name, for the metadata.
        convert (Callable[[dict], dict[str, Tensor]]): Turns the content of ``src`` into the weights to write.
        **notes: More entries of the metadata.

    Raises:
        UserError: If ``src`` cannot be read or converted, or ``dst`` cannot be written.
    """
    check_suffix(dst)
    if dst.exists() and src.exists() and dst.samefile(src):
        raise UserError(f'SRC and DST are both {src}: name another file to write')
    with atomic_path(dst) as temporary:
        checkpoint = load_checkpoint_file(src)
        try:
            state_dict = convert(checkpoint)
        except UserError as error:
            raise UserError(f'{src}: {error}') from error
        meta = dict(
            source=src.name,
            source_sha256=sha256(src),
            tool=tool,
            mmvittm_version=mmvittm.__version__,
            torch_version=str(torch.__version__),
            **notes,
        )
        meta = {key: str(value) for key, value in meta.items()}
        temporary.write_bytes(serialize(state_dict, meta, dst.suffix))
    print(f'Wrote {dst}: {len(state_dict)} weights')


def check_fit(backbone: dict, state_dict: dict[str, Tensor]) -> None:
    """Raise a UserError if a backbone cannot be built or the weights do not fit it."""
    weights = {key.removeprefix('backbone.'): value for key, value in state_dict.items() if key.startswith('backbone.')}
    if problem := describe_mismatch(MODELS.build(backbone), weights):
        raise UserError(f'the weights do not fit the config inferred from their shapes: {problem}')


def print_config(backbone: dict, remark: str = '') -> None:
    """Print a backbone's config as Python, for a config file."""
    text = Config(dict(model=dict(backbone=backbone))).pretty_text.rstrip()
    print(f'{remark}\n{text}'.lstrip())
