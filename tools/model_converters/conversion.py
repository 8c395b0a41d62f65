"""What the converters share: reading and writing weights, and saying where they came from."""

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from rich.console import Console
from safetensors.torch import save
from torch import Tensor, nn

import mmvittm
from mmvittm.errors import UserError
from mmvittm.fileio import atomic_path
from mmvittm.weights.loading import load_checkpoint_file
from mmvittm.weights.mismatch import describe_mismatch

PYTORCH_SUFFIXES = ('.pth', '.pt', '.ckpt', '.tar')


def converter_parser(description: str, source: str) -> argparse.ArgumentParser:
    """A parser with SRC and DST."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', type=Path, metavar='SRC', help=f'{source}, written by PyTorch or as .safetensors')
    parser.add_argument(
        'dst',
        type=Path,
        metavar='DST',
        help=f'the file to write: {", ".join(PYTORCH_SUFFIXES)} for mmengine, or .safetensors',
    )
    return parser


def add_arch_options(parser: argparse.ArgumentParser) -> None:
    """Options for what no weight of a ViTTM tells."""
    parser.add_argument('--num-heads', type=int, metavar='N', help='attention heads (default: one for 64 channels)')
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
        help='image size of the position embeddings, in pixels (default: that of square grids)',
    )


def arch_options(args: argparse.Namespace) -> dict:
    """The options of :func:`add_arch_options` as arguments of ``infer_authors_arch``."""
    return dict(num_heads=args.num_heads, fusion=args.fusion, img_size=args.img_size and tuple(args.img_size))


def convert_file(
    src: Path, dst: Path, tool: str, convert: Callable[[dict], dict[str, Tensor]], **notes: object
) -> None:
    """Convert one file, whole or not at all.

    Args:
        src (Path): The weights to convert.
        dst (Path): The file to write.
        tool (str): The tool's file name, for the record.
        convert (Callable[[dict], dict[str, Tensor]]): What turns the content of ``src`` into the weights to write.
        **notes: What else to record.

    Raises:
        UserError: If ``src`` cannot be read or converted, or ``dst`` not be written.
    """
    if dst.suffix not in (*PYTORCH_SUFFIXES, '.safetensors'):
        raise UserError(f'cannot write {dst}: name it {", ".join(PYTORCH_SUFFIXES)} or .safetensors')
    if dst.exists() and src.exists() and dst.samefile(src):
        raise UserError(f'SRC and DST are both {src}: name another file to write')
    with atomic_path(dst) as temporary:
        checkpoint = load_checkpoint_file(src)
        try:
            state_dict = convert(checkpoint)
        except UserError as error:
            raise UserError(f'{src}: {error}') from error
        # Views, and weights that share their storage, are written as what they are.
        state_dict = {
            key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in state_dict.items()
        }
        meta = dict(
            source=src.name,
            source_sha256=sha256(src),
            tool=tool,
            mmvittm_version=mmvittm.__version__,
            torch_version=str(torch.__version__),
            **notes,
        )
        write_weights(temporary, state_dict, {key: str(value) for key, value in meta.items()})
    Console().print(f'Wrote {dst}: {len(state_dict)} weights', soft_wrap=True, highlight=False, markup=False)


def write_weights(path: Path, state_dict: dict[str, Tensor], meta: dict[str, str]) -> None:
    """Write as mmengine does, or as safetensors by the suffix, ``meta`` included."""
    if path.suffix == '.safetensors':
        # save_file would make the file private to the user
        path.write_bytes(save(state_dict, metadata=meta | dict(format='pt')))
    else:
        torch.save(dict(meta=meta, state_dict=state_dict), path)


def sha256(path: Path) -> str:
    """The SHA-256 sum of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def build_and_load(backbone: dict, state_dict: dict[str, Tensor]) -> nn.Module:
    """Build a backbone and load its weights, every one of them.

    Raises:
        UserError: If the config cannot be built or the weights do not fit.
    """
    model = MODELS.build(backbone)
    weights = {key.removeprefix('backbone.'): value for key, value in state_dict.items() if key.startswith('backbone.')}
    if problem := describe_mismatch(model, weights):
        raise UserError(f'the weights do not fit the model that their shapes tell of: {problem}')
    model.load_state_dict(weights)
    return model


def print_config(backbone: dict, remark: str = '') -> None:
    """Show a backbone's config as one would write it into a file."""
    text = Config(dict(model=dict(backbone=backbone))).pretty_text.rstrip()
    Console().print(f'{remark}\n{text}'.lstrip(), soft_wrap=True, markup=False)
