from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor

from ...errors import UserError
from ..builder import positive_int


class RWHead(BaseModule):
    """Base class: ``head(source, query) -> update`` brings information from source tokens to query tokens.

    A read has the memory as source and the process tokens as query, a write the other way round. The constructor is
    passed ``source_tokens`` and ``query_tokens`` if it names them. LayerNorms inside a head have PyTorch's eps of 1e-5,
    as in the authors' code.

    Args:
        embed_dims (int): Width C of the tokens.
        num_heads (int): Number of attention heads; a divisor of ``embed_dims``.
        init_cfg (dict | list, optional): Initialisation. Defaults to that of timm's ViT, as in the authors' code:
            truncated normal of std 0.02. An empty list keeps PyTorch's.

    Attributes:
        fixed_tokens (bool): Whether the head is built for fixed numbers of tokens. The backbone then refuses other
            input sizes.
        per_token (bool): True if :meth:`update` treats each query token by itself, as memory in chunks and scenes need.
            Not inherited: a subclass says so itself.

    Raises:
        UserError: If a number is not positive, or ``num_heads`` does not divide ``embed_dims``.
    """

    fixed_tokens = False

    def __init__(self, embed_dims: int, num_heads: int, init_cfg: dict | None = None) -> None:
        default = dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0)
        super().__init__(default if init_cfg is None else init_cfg)
        self.embed_dims = positive_int('embed_dims', embed_dims)
        self.num_heads = positive_int('num_heads', num_heads)
        if embed_dims % num_heads:
            raise UserError(f'num_heads={num_heads} does not divide embed_dims={embed_dims}: choose a divisor')

    @abstractmethod
    def forward(self, source: Tensor, query: Tensor) -> Tensor:
        """Compute the update.

        Args:
            source (Tensor): Source tokens ``(B, N, C)``.
            query (Tensor): Query tokens ``(B, M, C)``.

        Returns:
            Tensor: Update of the query tokens, ``(B, M, C)``.
        """

    def summarize(self, source: Tensor) -> Any:
        """Reduce source tokens ``(B, N, C)`` to all that :meth:`update` needs of them; here the tokens themselves."""
        return source

    def merge(self, summaries: Sequence[Any]) -> Any:
        """Merge the summaries of consecutive chunks of the source into the summary of the whole."""
        return torch.cat(list(summaries), 1)

    def update(self, summary: Any, query: Tensor) -> Tensor:
        """Compute the update ``(B, M, C)`` of query tokens ``(B, M, C)``: ``forward(source, query)`` of the summary."""
        return self(summary, query)

    def attention_map(self, source: Tensor, query: Tensor) -> Tensor:
        """Compute the weights with which each query token sums the values of the source tokens, to look at them.

        :meth:`forward` never forms this map, which is quadratic in the number of tokens.

        Args:
            source (Tensor): Source tokens ``(B, N, C)``.
            query (Tensor): Query tokens ``(B, M, C)``.

        Returns:
            Tensor: ``(B, h, M, N)``, in fp32 at least; the weights of a query sum to 1.

        Raises:
            UserError: If the head computes no such sum.
        """
        raise UserError(
            f'{type(self).__name__} has no attention map from source to query tokens: '
            'choose a model with an attention head, such as LinearAttention'
        )

    def split_heads(self, x: Tensor) -> Tensor:
        """``(B, N, h·d)`` -> ``(B, h, N, d)``."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """``(B, h, N, d)`` -> ``(B, N, h·d)``."""
    return x.transpose(1, 2).flatten(2)


def at_least_fp32(x: Tensor) -> Tensor:
    """Return ``x``, cast to fp32 if it is in half precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Return a context without autocast on the device of ``x``; some devices, such as meta, have none."""
    # before torch 2.4 nobody tells
    has_autocast = getattr(torch.amp, 'is_autocast_available', lambda device: device not in ('meta', 'mps'))
    return torch.autocast(x.device.type, enabled=False) if has_autocast(x.device.type) else nullcontext()


def softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis, in fp32 at least."""
    return at_least_fp32(scores).softmax(-1)


def weighted_sum(scores: Tensor, tokens: Tensor) -> Tensor:
    """Sum tokens, weighted by the softmax of their scores.

    Runs in fp32 at least: one weight among thousands of tokens is smaller than fp16 resolves.

    Args:
        scores (Tensor): ``(…, M, N)``.
        tokens (Tensor): ``(…, N, C)``.

    Returns:
        Tensor: ``(…, M, C)``, in the dtype of ``tokens``.
    """
    with without_autocast(tokens):
        out = softmax(scores) @ at_least_fp32(tokens)
    return out.to(tokens.dtype)


def latent_width(embed_dims: int, latent_ratio: int, num_heads: int, minimum: int = 1) -> int:
    """Return ``embed_dims / latent_ratio``, checked to split into equal widths of ``minimum`` or more per head."""
    positive_int('latent_ratio', latent_ratio)
    if embed_dims % (latent_ratio * num_heads) or embed_dims < minimum * latent_ratio * num_heads:
        raise UserError(
            f'latent_ratio={latent_ratio} × num_heads={num_heads} does not divide embed_dims={embed_dims} '
            f'into widths of at least {minimum}: choose a smaller ratio'
        )
    return embed_dims // latent_ratio
