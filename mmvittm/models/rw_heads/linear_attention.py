import torch.nn.functional as F
from torch import Tensor, nn

from ...registry import RW_HEADS
from .base import RWHead, at_least_fp32, latent_width, merge_heads, without_autocast


@RW_HEADS.register_module()
class LinearAttention(RWHead):
    r"""Attention whose cost is linear in both numbers of tokens (Katharopoulos et al. 2020; ViTTM paper).

    .. math:: \frac{\phi(q)\,(\phi(k)^\top v)}{\phi(q) \cdot \sum_n \phi(k_n) + 10^{-6}},\quad \phi = \mathrm{elu} + 1

    with keys and queries of width ``embed_dims / latent_ratio`` and no output projection.

    Args:
        embed_dims (int): C, the width of the tokens.
        num_heads (int): Number of attention heads.
        latent_ratio (int): How much narrower than the tokens keys and queries are. Defaults to 4.
    """

    def __init__(self, embed_dims: int, num_heads: int, latent_ratio: int = 4) -> None:
        super().__init__(embed_dims, num_heads)
        latent_dims = latent_width(embed_dims, latent_ratio, num_heads)
        self.q = nn.Linear(embed_dims, latent_dims)
        self.k = nn.Linear(embed_dims, latent_dims)
        self.v = nn.Linear(embed_dims, embed_dims)

    def forward(self, source: Tensor, query: Tensor) -> Tensor:
        """``(B, N, C)``, ``(B, M, C)`` -> ``(B, M, C)``."""
        q, k, v = (self.split_heads(x) for x in (self.q(query), self.k(source), self.v(source)))
        return merge_heads(self._attend(q, k, v)).to(v.dtype)

    @staticmethod
    def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # The sums run over all source tokens: past a few thousand they leave fp16's range and bf16's precision.
        with without_autocast(q):
            q, k, v = at_least_fp32(q), at_least_fp32(k), at_least_fp32(v)
            q, k = F.elu(q) + 1, F.elu(k) + 1
            norm = q @ k.sum(2).unsqueeze(3) + 1e-6
            return q @ (k.transpose(2, 3) @ v) / norm
