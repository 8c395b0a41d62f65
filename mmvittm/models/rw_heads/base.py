from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext

import torch
from mmengine.model import BaseModule
from torch import Tensor

from ...errors import UserError
from ..builder import positive_int


class RWHead(BaseModule):
    """What a read/write head is: ``head(source, query) -> update``.

    A head whose constructor also names ``source_tokens`` or ``query_tokens`` is given these numbers, and is bound to
    them; ``source_name`` and ``query_name`` tell it which stream that is, for its errors. LayerNorms inside a head have
    PyTorch's eps of 1e-5, as the authors' have.

    Args:
        embed_dims (int): C, the width of the tokens.
        num_heads (int): Number of attention heads; it divides ``embed_dims``.

    Attributes:
        uses_query (bool): Whether the update depends on the query tokens, or on their number alone.
        shift_invariant (tuple[str, ...]): Parameters that only add the same to all that a softmax compares. They are
            part of the authors' checkpoints, change nothing, and their gradient is zero.
    """

    uses_query = True
    shift_invariant: tuple[str, ...] = ()

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        # timm's initialisation of a ViT, which the authors keep
        super().__init__(init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0))
        self.embed_dims = positive_int('embed_dims', embed_dims)
        self.num_heads = positive_int('num_heads', num_heads)
        if embed_dims % num_heads:
            raise UserError(f'num_heads={num_heads} does not divide embed_dims={embed_dims}: choose a divisor')

    @abstractmethod
    def forward(self, source: Tensor, query: Tensor) -> Tensor:
        """Bring the source to the query's tokens.

        Args:
            source (Tensor): ``(B, N, C)``.
            query (Tensor): ``(B, M, C)``.

        Returns:
            Tensor: ``(B, M, C)``.
        """

    def split_heads(self, x: Tensor) -> Tensor:
        """``(B, N, h·d)`` -> ``(B, h, N, d)``."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """``(B, h, N, d)`` -> ``(B, N, h·d)``."""
    return x.transpose(1, 2).flatten(2)


def at_least_fp32(x: Tensor) -> Tensor:
    """``x``, in fp32 if it is in half precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def without_autocast(x: Tensor) -> AbstractContextManager:
    """A context in which operations keep the dtype of their operands; the meta device knows no autocast at all."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def weighted_sum(scores: Tensor, tokens: Tensor) -> Tensor:
    """Sum tokens, each weighted by the softmax of its score.

    In fp32 at least, since a weight among thousands of tokens is below what fp16 resolves.

    Args:
        scores (Tensor): ``(…, M, N)``.
        tokens (Tensor): ``(…, N, C)``.

    Returns:
        Tensor: ``(…, M, C)``, in the dtype of ``tokens``.
    """
    with without_autocast(tokens):
        out = at_least_fp32(scores).softmax(-1) @ at_least_fp32(tokens)
    return out.to(tokens.dtype)


def latent_width(embed_dims: int, latent_ratio: int, num_heads: int, least: int = 1) -> int:
    """``embed_dims / latent_ratio``, which each of ``num_heads`` heads takes an equal share of, ``least`` or more."""
    positive_int('latent_ratio', latent_ratio)
    if embed_dims % (latent_ratio * num_heads) or embed_dims < least * latent_ratio * num_heads:
        raise UserError(
            f'latent_ratio={latent_ratio} × num_heads={num_heads} does not divide embed_dims={embed_dims} '
            f'into widths of at least {least}: choose a smaller ratio'
        )
    return embed_dims // latent_ratio
