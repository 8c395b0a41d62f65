"""The two token streams, and the outputs that ``ViTTM.forward`` makes of them."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]  # rows and columns


class Streams(NamedTuple):
    """The tokens of both streams; everywhere in this order."""

    process: Tensor
    """``(B, Np, C)``"""
    memory: Tensor
    """``(B, Nm, C)``"""


class Grids(NamedTuple):
    """The grids of both streams' tokens, which are stored in row-major order."""

    process: Grid
    memory: Grid


def tokens_to_map(tokens: Tensor, grid: Grid) -> Tensor:
    """``(B, N, C)`` -> ``(B, C, rows, columns)``."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def split_regions(tokens: Tensor, grid: Grid, regions: Grid) -> Tensor:
    """Split tokens on a grid into equal regions: ``(B, N, C)`` -> ``(B · regions, N / regions, C)``."""
    (rows, columns), (down, across) = grid, regions
    parts = tokens.reshape(-1, down, rows // down, across, columns // across, tokens.shape[2])
    return parts.transpose(2, 3).reshape(-1, (rows // down) * (columns // across), tokens.shape[2])


def merge_regions(tokens: Tensor, grid: Grid, regions: Grid) -> Tensor:
    """Undo :func:`split_regions`: ``(B · regions, N / regions, C)`` -> ``(B, N, C)``."""
    (rows, columns), (down, across) = grid, regions
    parts = tokens.reshape(-1, down, across, rows // down, columns // across, tokens.shape[2])
    return parts.transpose(2, 3).reshape(-1, rows * columns, tokens.shape[2])


def concat_map(streams: Streams, grids: Grids) -> Tensor:
    """``(B, 2C, H', W')`` on the memory grid: the process map, resized bilinearly if the grids differ, then memory."""
    process = tokens_to_map(streams.process, grids.process)
    if grids.process != grids.memory:
        process = F.interpolate(process, grids.memory, mode='bilinear', align_corners=False)
    return torch.cat([process, tokens_to_map(streams.memory, grids.memory)], 1)


class OutStream(NamedTuple):
    """A value of the backbone's ``out_stream``.

    Attributes:
        make (Callable): Makes the output of the streams.
        uses_memory (bool): Whether the output depends on the memory after the block.
        final_norm (bool): Whether the process tokens pass through the final norm first.
    """

    make: Callable[[Streams, Grids], Tensor | tuple[Tensor, Tensor]]
    uses_memory: bool
    final_norm: bool = False


OUT_STREAMS = dict(
    process=OutStream(lambda streams, grids: tokens_to_map(streams.process, grids.process), uses_memory=False),
    memory=OutStream(lambda streams, grids: tokens_to_map(streams.memory, grids.memory), uses_memory=True),
    concat=OutStream(concat_map, uses_memory=True),
    # a plain tuple, since mmpretrain's FeatureExtractor makes each again from a list
    tokens=OutStream(lambda streams, grids: (streams.process, streams.memory), uses_memory=True, final_norm=True),
)
