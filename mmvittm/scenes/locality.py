"""Which tokens a convolutional decoder reads for one pixel, measured on the decoder itself."""

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserError

Decode = Callable[[Sequence[nn.Module], Sequence[Tensor]], Tensor]

_SIDES = (32, 64, 128)  # tokens; the second and third are tried if the decoder reads further


class Locality(NamedTuple):
    """Geometry that windows of a decoder need to equal the whole."""

    upscale: int
    """rows and columns of logits per token"""
    align: int
    """tokens; windows must begin at a multiple of it"""
    halo: int
    """tokens around a window that its logits depend on, a multiple of ``align``"""
    floats: int
    """numbers that all modules together compute per token"""


def measure_locality(modules: Sequence[nn.Module], decode: Decode, channels: Sequence[int]) -> Locality:
    """Measure the locality of a decoder.

    NaN in a few tokens marks all logits that depend on them.

    Args:
        modules (Sequence[nn.Module]): Neck and decode head.
        decode (Callable): ``decode(modules, maps)`` runs modules like these on maps ``(B, C, H, W)`` and returns logits
            ``(B, K, h, w)``.
        channels (Sequence[int]): Channels C of each map.

    Raises:
        UserError: If the decoder mixes tokens globally.
    """
    # In double precision convolutions run as sums over their own window; faster algorithms would spread NaN.
    modules = nn.ModuleList(copy.deepcopy(list(modules))).double().cpu().eval()
    for side in _SIDES:
        maps = _random_maps(channels, side)
        with torch.no_grad():
            upscale = _upscale(decode(modules, maps), side)
            measured = _align_and_reach(modules, decode, maps, upscale)
        if measured:
            align, reach = measured
            return Locality(upscale, align, -(-reach // align) * align, _floats(modules, decode, channels))
    raise UserError(
        'the decode head reads the whole scene for every pixel, so it cannot decode windows: choose a convolutional '
        'head without pooling over the image, such as mmvittm.PixelShuffleHead, or slide over the scene'
    )


def _random_maps(channels: Sequence[int], side: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, c, side, side, generator=generator, dtype=torch.float64) for c in channels]


def _upscale(logits: Tensor, side: int) -> int:
    if logits.shape[3] % side:
        raise UserError(
            f'the decode head makes {logits.shape[3]} columns of logits from {side} columns of tokens: '
            'choose one whose logits are not coarser than the tokens'
        )
    return logits.shape[3] // side


def _align_and_reach(
    modules: nn.ModuleList, decode: Decode, maps: list[Tensor], upscale: int
) -> tuple[int, int] | None:
    """Return the alignment, and how many tokens beyond a block of that size logits depend on it.

    The alignment is the smallest shift of the maps that shifts the logits alike, as strided convolutions need. Pooling
    often keeps its maximum, so what depends on two blocks beside each other must be shifted alike too.

    Returns:
        tuple[int, int], optional: None if the maps are too small to tell.
    """
    side = maps[0].shape[3]
    half = side // 2
    logits = decode(modules, maps)
    for align in (each for each in (1, 2, 4, 8, 16, 32) if 4 * each <= side):
        shifted = decode(modules, [each[..., align:] for each in maps])
        middle = slice((half - 1) * upscale, half * upscale)
        moved = slice(middle.start - align * upscale, middle.stop - align * upscale)
        if not torch.allclose(logits[..., middle, middle], shifted[..., middle, moved], rtol=1e-6, atol=1e-9):
            continue
        before, reached = (
            _depending(modules, decode, maps, upscale, range(first, first + align)) for first in (half - align, half)
        )
        if all(torch.equal(tokens + align, others) for tokens, others in zip(before, reached, strict=True)):
            if any(tokens[0] == 0 or tokens[-1] == side - 1 for tokens in reached):
                return None
            return align, max(max(half - int(tokens[0]), int(tokens[-1]) - half - align + 1) for tokens in reached)
    return None


def _depending(
    modules: nn.ModuleList, decode: Decode, maps: list[Tensor], upscale: int, block: range
) -> tuple[Tensor, Tensor]:
    """Return the rows and the columns of tokens whose logits depend on the tokens of a square block."""
    marked = [each.clone() for each in maps]
    for each in marked:
        each[..., block.start : block.stop, block.start : block.stop] = torch.nan
    rows, columns = decode(modules, marked)[0].isnan().any(0).nonzero().unbind(1)
    return (rows // upscale).unique(), (columns // upscale).unique()


def _floats(modules: nn.ModuleList, decode: Decode, channels: Sequence[int]) -> int:
    side, count = _SIDES[0], 0

    def add(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        nonlocal count
        count += output.numel() if isinstance(output, Tensor) else 0

    hooks = [module.register_forward_hook(add) for module in modules.modules() if not [*module.children()]]
    with torch.no_grad():
        decode(modules, _random_maps(channels, side))
    for hook in hooks:
        hook.remove()
    return count // side**2 + sum(channels)
