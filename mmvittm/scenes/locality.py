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
            align = _align(modules, decode, maps, upscale)
            reach = _reach(modules, decode, maps, upscale, align)
        if reach is not None:
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


def _align(modules: nn.ModuleList, decode: Decode, maps: list[Tensor], upscale: int) -> int:
    """Return the smallest shift of the maps that shifts the logits alike, as strided convolutions need."""
    side = maps[0].shape[3]
    logits = decode(modules, maps)
    for align in (1, 2, 4):
        shifted = decode(modules, [each[..., align:] for each in maps])
        middle = slice((side // 2 - 1) * upscale, side // 2 * upscale)
        moved = slice(middle.start - align * upscale, middle.stop - align * upscale)
        if torch.allclose(logits[..., middle, middle], shifted[..., middle, moved], rtol=1e-6, atol=1e-9):
            return align
    return 8


def _reach(modules: nn.ModuleList, decode: Decode, maps: list[Tensor], upscale: int, align: int) -> int | None:
    """Return how many tokens beyond a marked block logits depend on it; None if up to the border of the maps."""
    side = maps[0].shape[3]
    first, last = side // 2, side // 2 + align
    for each in maps:
        each[..., first:last, first:last] = torch.nan
    marked = decode(modules, maps)[0].isnan().any(0)
    reached = [(index // upscale).unique() for index in marked.nonzero().unbind(1)]
    if any(tokens[0] == 0 or tokens[-1] == side - 1 for tokens in reached):
        return None
    return max(max(first - int(tokens[0]), int(tokens[-1]) - last + 1) for tokens in reached)


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
