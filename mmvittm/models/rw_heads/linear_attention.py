from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...registry import RW_HEADS
from .base import RWHead, at_least_fp32, latent_width, merge_heads, without_autocast


class Summary(NamedTuple):
    """Source tokens, as far as queries depend on them: one sum and one mean value for each of the L key features."""

    total: Tensor
    """``(B, 1, L)``, in fp32 at least"""
    means: Tensor
    """``(B, h, L/h, C/h)``"""


@RW_HEADS.register_module()
class LinearAttention(RWHead):
    r"""Attention whose cost is linear in both numbers of tokens (Katharopoulos et al. 2020; ViTTM paper).

    .. math:: \frac{\phi(q)\,(\phi(k)^\top v)}{\phi(q) \cdot \sum_n \phi(k_n) + 10^{-6}},\quad \phi = \mathrm{elu} + 1

    with queries and keys of width ``embed_dims / latent_ratio`` and no output projection. Per key feature, the values
    are averaged with weights :math:`\phi(k_n) / \sum_n \phi(k_n)` before or after their projection, whichever takes
    fewer multiply-adds; a query sums these means with weights :math:`\phi(q) \sum_n \phi(k_n)`.

    Args:
        embed_dims (int): Width C of the tokens.
        num_heads (int): Number of attention heads.
        latent_ratio (int): ``embed_dims`` divided by the width of queries and keys. Defaults to 4.
        init_cfg (dict, optional): Initialisation, see :class:`RWHead`.
    """

    per_token = True

    eps = 1e-6  # of the denominator

    def __init__(self, embed_dims: int, num_heads: int, latent_ratio: int = 4, init_cfg: dict | None = None) -> None:
        super().__init__(embed_dims, num_heads, init_cfg)
        self.latent_dims = latent_width(embed_dims, latent_ratio, num_heads)
        self.q = nn.Linear(embed_dims, self.latent_dims)
        self.k = nn.Linear(embed_dims, self.latent_dims)
        self.v = nn.Linear(embed_dims, embed_dims)

    def forward(self, source: Tensor, query: Tensor) -> Tensor:
        """``(B, N, C)``, ``(B, M, C)`` -> ``(B, M, C)``."""
        return self.update(self.summarize(source), query)

    def summarize(self, source: Tensor) -> Summary:
        """Reduce source tokens ``(B, N, C)`` to sums of their key features and means of their values."""
        k = self.k(source)
        dtype = k.dtype
        # Sums over a few thousand source tokens exceed the range of fp16 and the precision of bf16, so they stay in
        # fp32, apart from the means, which have the magnitude of a value.
        with without_autocast(k):
            k = self.features(k)
            total = k.sum(1, keepdim=True)
            # a feature that is zero for all tokens has no mean; its weight is zero too
            shares = k / total.clamp_min(torch.finfo(k.dtype).tiny)
        return Summary(total, self._average(source.shape[1])(source, shares, dtype))

    def merge(self, summaries: Sequence[Summary]) -> Summary:
        """Add the sums, and average the means with the sums as weights."""
        totals = torch.stack([summary.total for summary in summaries])
        total = totals.sum(0)
        with without_autocast(total):
            weights = self.split_heads((totals / total.clamp_min(torch.finfo(total.dtype).tiny)).flatten(0, 1))
            weights = weights.transpose(2, 3).unflatten(0, totals.shape[:2])  # (chunks, B, h, L/h, 1)
            means = sum(w * at_least_fp32(summary.means) for w, summary in zip(weights, summaries, strict=True))
        return Summary(total, means.to(summaries[0].means.dtype))

    def update(self, summary: Summary, query: Tensor) -> Tensor:
        """Compute the update ``(B, M, C)`` of query tokens ``(B, M, C)``."""
        q = self.q(query)
        dtype = q.dtype
        with without_autocast(q):
            weights = self.split_heads(self.features(q) * summary.total)
            weights = weights / (weights.sum(-1, keepdim=True) + self.eps)
            return merge_heads(weights @ at_least_fp32(summary.means)).to(dtype)

    def attention_map(self, source: Tensor, query: Tensor) -> Tensor:
        """``(B, N, C)``, ``(B, M, C)`` -> ``(B, h, M, N)``: the map that the order of the products avoids."""
        q, k = (self.split_heads(self.features(x)) for x in (self.q(query), self.k(source)))
        with without_autocast(q):
            scores = q @ k.transpose(2, 3)
            return scores / (scores.sum(-1, keepdim=True) + self.eps)

    def features(self, x: Tensor) -> Tensor:
        """Return positive features of projected tokens ``(B, N, L)``, of the same shape and in fp32 at least."""
        # elu(x) + 1; elu itself computes expm1, which is several times slower than exp
        x = at_least_fp32(x)
        return x.clamp_max(0).exp() + F.relu(x)

    def _average(self, tokens: int) -> Callable[[Tensor, Tensor, torch.dtype], Tensor]:
        """Choose the order with fewer multiply-adds for this number of source tokens."""
        if type(self.v) is not nn.Linear or self.v._forward_hooks or self.v._forward_pre_hooks:
            return self._project_then_average  # an adapter or hook acts in the call of v, not on its weight
        width, latent, per_head = self.embed_dims, self.latent_dims, self.embed_dims // self.num_heads
        project_first = tokens * width * (width + latent // self.num_heads)
        average_first = latent * width * (tokens + per_head)
        return self._average_then_project if average_first < project_first else self._project_then_average

    def _project_then_average(self, source: Tensor, shares: Tensor, dtype: torch.dtype) -> Tensor:
        """``(B, N, C)``, ``(B, N, L)`` -> ``(B, h, L/h, C/h)``: the mean value of each of the L key features."""
        values = self.split_heads(self.v(source))
        with without_autocast(values):
            return self.split_heads(shares.to(dtype)).transpose(2, 3) @ values

    def _average_then_project(self, source: Tensor, shares: Tensor, dtype: torch.dtype) -> Tensor:
        """Compute the same as the projection of mean tokens."""
        with without_autocast(shares):
            tokens = shares.to(dtype).transpose(1, 2) @ source.to(dtype)  # (B, L, C)
            # Per attention head, C/h rows of the weight act on L/h mean tokens of every image. The weight is the left
            # factor, so that its gradient has the layout of the weight.
            tokens = tokens.unflatten(1, (self.num_heads, -1)).transpose(0, 1).flatten(1, 2)  # (h, B·L/h, C)
            weight = self.v.weight.to(dtype).unflatten(0, (self.num_heads, -1))  # (h, C/h, C)
            bias = self.v.bias.to(dtype).unflatten(0, (self.num_heads, -1)).unsqueeze(2)
            values = torch.baddbmm(bias, weight, tokens.transpose(1, 2))  # (h, C/h, B·L/h)
            return values.unflatten(2, (source.shape[0], -1)).permute(2, 0, 3, 1)
