"""What ``ViTTM.forward`` returns for an out index: maps of one stream or of both, or the tokens themselves."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .token_embeds import Grid


class Streams(NamedTuple):
    """Both streams after a block, and what it takes to hand them out."""

    process: Tensor  # (B, Np, C)
    memory: Tensor | None  # (B, Nm, C); None if nothing asks for it
    process_grid: Grid
    memory_grid: Grid
    process_norm: nn.Module

    def process_map(self) -> Tensor:
        """``(B, C, H', W')`` on the process grid."""
        return tokens_to_map(self.process, self.process_grid)

    def memory_map(self) -> Tensor:
        """``(B, C, H', W')`` on the memory grid."""
        return tokens_to_map(self.memory, self.memory_grid)

    def concat_map(self) -> Tensor:
        """``(B, 2C, H', W')`` on the memory grid: the process map, resized bilinearly if need be, then the memory's."""
        process, memory = self.process_map(), self.memory_map()
        if self.process_grid != self.memory_grid:
            process = F.interpolate(process, self.memory_grid, mode='bilinear', align_corners=False)
        return torch.cat([process, memory], 1)

    def tokens(self) -> tuple[Tensor, Tensor]:
        """``(B, Np, C)`` after the final norm, ``(B, Nm, C)``, which has none: as classification takes them."""
        return self.process_norm(self.process), self.memory


class OutStream(NamedTuple):
    """A value of the backbone's ``out_stream``, and what it depends on besides the process tokens."""

    make: Callable[[Streams], Tensor | tuple[Tensor, Tensor]]
    uses_memory: bool
    uses_process_norm: bool = False


OUT_STREAMS = dict(
    process=OutStream(Streams.process_map, uses_memory=False),
    memory=OutStream(Streams.memory_map, uses_memory=True),
    concat=OutStream(Streams.concat_map, uses_memory=True),
    tokens=OutStream(Streams.tokens, uses_memory=True, uses_process_norm=True),
)


def tokens_to_map(tokens: Tensor, grid: Grid) -> Tensor:
    """``(B, N, C)`` in row-major order -> ``(B, C, rows, columns)``."""
    return tokens.transpose(1, 2).unflatten(2, grid)
