from torch import Tensor, nn

from ...registry import RW_HEADS
from ..builder import positive_int
from ..mlp import MLP
from .base import RWHead, latent_width, softmax, weighted_sum


@RW_HEADS.register_module()
class LatentAttention(RWHead):
    r"""Attention through latents that are weighted means of the source tokens (ViTTM paper).

    .. math:: \mathrm{softmax}_{latents}(\mathrm{MLP_2}(\mathrm{LN}(\mathrm{query})))\,
              \bigl(\mathrm{softmax}_{tokens}(\mathrm{MLP}(\mathrm{LN}(\mathrm{source}))^\top)\,\mathrm{source}\bigr)

    It has a single attention head and no output projection.

    Args:
        embed_dims (int): Width C of the tokens.
        latent_ratio (int): The number of latents is ``embed_dims / latent_ratio``. Defaults to 4.
        hidden_dims (int): Hidden width of both MLPs. Defaults to 64.
        init_cfg (dict, optional): Initialisation, see :class:`RWHead`.
    """

    per_token = True

    def __init__(
        self, embed_dims: int, latent_ratio: int = 4, hidden_dims: int = 64, init_cfg: dict | None = None
    ) -> None:
        super().__init__(embed_dims, num_heads=1, init_cfg=init_cfg)
        num_latents = latent_width(embed_dims, latent_ratio, self.num_heads, minimum=2)
        positive_int('hidden_dims', hidden_dims)
        self.norm = nn.LayerNorm(embed_dims)
        self.mlp = MLP(embed_dims, hidden_dims, num_latents)
        self.norm_q = nn.LayerNorm(embed_dims)
        self.mlp2 = MLP(embed_dims, hidden_dims, num_latents)

    def forward(self, source: Tensor, query: Tensor) -> Tensor:
        """``(B, N, C)``, ``(B, M, C)`` -> ``(B, M, C)``."""
        gather, read = self._scores(source, query)
        return weighted_sum(read, weighted_sum(gather, source))

    def attention_map(self, source: Tensor, query: Tensor) -> Tensor:
        """``(B, N, C)``, ``(B, M, C)`` -> ``(B, 1, M, N)``: the product of both softmaxes."""
        gather, read = self._scores(source, query)
        return weighted_sum(read, softmax(gather)).unsqueeze(1)

    def _scores(self, source: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of source tokens per latent ``(B, L, N)``, and of latents per query ``(B, M, L)``."""
        return self.mlp(self.norm(source)).transpose(1, 2), self.mlp2(self.norm_q(query))
