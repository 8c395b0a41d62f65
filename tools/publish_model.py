"""Turn a training checkpoint into a file to publish: only the weights, with the names of the classes.

With an EMAHook, these are the averaged weights, as in tools/test.py. The name gets the first eight digits of the
SHA-256 sum, as in OpenMMLab's model zoos: vittm.pth becomes vittm-1a2b3c4d.pth.
"""

import argparse
import hashlib
from pathlib import Path

from torch import Tensor

import mmvittm
from mmvittm.apis.cli import run_tool
from mmvittm.errors import UserError
from mmvittm.fileio import atomic_path, require_writable
from mmvittm.weights.loading import load_in_mmengine_layout
from mmvittm.weights.saving import check_suffix, serialize, sha256


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', type=Path, help='checkpoint of a training')
    parser.add_argument('out', type=Path, help='file to write, without the hash: .pth for mmengine, or .safetensors')
    parser.add_argument('--fp16', action='store_true', help='store matrices and kernels in fp16, half the size')
    return parser.parse_args()


def half(key: str, value: Tensor) -> Tensor:
    """Round matrices and kernels to fp16; norms, biases and statistics are small and stay as they are."""
    if not value.is_floating_point() or value.ndim < 2:
        return value
    rounded = value.half()
    if rounded.isinf().any():
        raise UserError(f'{key} has values up to {value.abs().max():.3g}, too large for fp16: leave out --fp16')
    return rounded


def main() -> None:
    args = parse_args()
    check_suffix(args.out)
    require_writable(args.out.parent)
    checkpoint = load_in_mmengine_layout(args.checkpoint)
    weights, trained = checkpoint['state_dict'], checkpoint['meta']
    if args.fp16:
        weights = {key: half(key, value) for key, value in weights.items()}
    meta = {key: trained[key] for key in ('dataset_meta', 'epoch', 'iter') if key in trained}
    meta |= dict(
        source=args.checkpoint.name, source_sha256=sha256(args.checkpoint), mmvittm_version=mmvittm.__version__
    )
    content = serialize(weights, meta, args.out.suffix)
    digest = hashlib.sha256(content).hexdigest()
    out = args.out.with_name(f'{args.out.stem}-{digest[:8]}{args.out.suffix}')
    with atomic_path(out) as path:
        path.write_bytes(content)
    if 'ema_state_dict' in checkpoint:
        print('Took the averaged weights.')
    before, after = (size / 1e6 for size in (args.checkpoint.stat().st_size, len(content)))
    print(f'Wrote {out}: {len(weights)} weights, {after:.1f} MB instead of {before:.1f} MB\nSHA-256 {digest}')


if __name__ == '__main__':
    run_tool(main)
