from torch import Tensor, nn

from ...registry import RW_HEADS
from .base import RWHead, latent_width, merge_heads, softmax, weighted_sum


@RW_HEADS.register_module()
class LatentCrossAttention(RWHead):
    r"""Attention through latents: keys gather the values into latents, queries read the latents (ViTTM paper).

    .. math:: W_o\,\mathrm{softmax}_{latents}(q)\,\bigl(\mathrm{softmax}_{tokens}(k^\top)\,v\bigr),\quad
              q = \mathrm{LN}(W_q\,\mathrm{query}),\ k = \mathrm{LN}(W_k\,\mathrm{source}),\
              v = \mathrm{LN}(W_v\,\mathrm{source})

    The LayerNorms span the full width, before the split into attention heads.

    Args:
        embed_dims (int): Width C of the tokens.
        num_heads (int): Number of attention heads.
        latent_ratio (int): ``embed_dims / latent_ratio`` latents are split between the attention heads. Defaults to 4.
        init_cfg (dict, optional): Initialisation, see :class:`RWHead`.
    """

    per_token = True

    def __init__(self, embed_dims: int, num_heads: int, latent_ratio: int = 4, init_cfg: dict | None = None) -> None:
        super().__init__(embed_dims, num_heads, init_cfg)
        num_latents = latent_width(embed_dims, latent_ratio, num_heads, minimum=2)
        self.q = nn.Linear(embed_dims, num_latents)
        self.k = nn.Linear(embed_dims, num_latents)
        self.v = nn.Linear(embed_dims, embed_dims)
        self.q_norm = nn.LayerNorm(num_latents)
        self.k_norm = nn.LayerNorm(num_latents)
        self.v_norm = nn.LayerNorm(embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, source: Tensor, query: Tensor) -> Tensor:
        """``(B, N, C)``, ``(B, M, C)`` -> ``(B, M, C)``."""
        gather, read = self._scores(source, query)
        v = self.split_heads(self.v_norm(self.v(source)))
        return self.proj(merge_heads(weighted_sum(read, weighted_sum(gather, v))))

    def attention_map(self, source: Tensor, query: Tensor) -> Tensor:
        """``(B, N, C)``, ``(B, M, C)`` -> ``(B, h, M, N)``: the product of both softmaxes."""
        gather, read = self._scores(source, query)
        return weighted_sum(read, softmax(gather))

    def _scores(self, source: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the source tokens for each latent ``(B, h, L/h, N)``, and of the latents for each query."""
        gather = self.split_heads(self.k_norm(self.k(source))).transpose(2, 3)
        return gather, self.split_heads(self.q_norm(self.q(query)))
