import torch.nn.functional as F
from torch import Tensor, nn

from ...registry import RW_HEADS
from .base import RWHead, merge_heads, softmax


@RW_HEADS.register_module()
class CrossAttention(RWHead):
    r"""Softmax attention with normalised queries, keys and values (ViTTM paper).

    .. math:: W_o\,\mathrm{softmax}\bigl(q k^\top / \sqrt{d}\bigr)\,v,\quad q = \mathrm{LN}(W_q\,\mathrm{query}),\
              k = \mathrm{LN}(W_k\,\mathrm{source}),\ v = \mathrm{LN}(W_v\,\mathrm{source})

    with ``d = embed_dims / num_heads``. The LayerNorms span the full width, before the split into attention heads.

    Args:
        embed_dims (int): Width C of the tokens.
        num_heads (int): Number of attention heads.
        init_cfg (dict, optional): Initialisation, see :class:`RWHead`.
    """

    per_token = True

    def __init__(self, embed_dims: int, num_heads: int, init_cfg: dict | None = None) -> None:
        super().__init__(embed_dims, num_heads, init_cfg)
        self.q, self.k, self.v, self.proj = (nn.Linear(embed_dims, embed_dims) for _ in range(4))
        self.q_norm, self.k_norm, self.v_norm = (nn.LayerNorm(embed_dims) for _ in range(3))

    def forward(self, source: Tensor, query: Tensor) -> Tensor:
        """``(B, N, C)``, ``(B, M, C)`` -> ``(B, M, C)``."""
        q, k = self._queries_and_keys(source, query)
        v = self.split_heads(self.v_norm(self.v(source)))
        return self.proj(merge_heads(F.scaled_dot_product_attention(q, k, v)))

    def attention_map(self, source: Tensor, query: Tensor) -> Tensor:
        """``(B, N, C)``, ``(B, M, C)`` -> ``(B, h, M, N)``: the softmax."""
        q, k = self._queries_and_keys(source, query)
        return softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5)

    def _queries_and_keys(self, source: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        return self.split_heads(self.q_norm(self.q(query))), self.split_heads(self.k_norm(self.k(source)))
