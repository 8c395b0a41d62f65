import torch
from torch import Tensor, nn

from ...registry import RW_HEADS
from ..builder import positive_int
from ..mlp import MLP
from .base import RWHead, weighted_sum


@RW_HEADS.register_module()
class TokenLearner(RWHead):
    r"""Make each update a weighted mean of all tokens, source and query (Ryoo et al. 2021; ViTTM paper).

    .. math:: \mathrm{softmax}_{tokens}(\mathrm{MLP}(\mathrm{LN}(c))^\top)\,c,\quad
              c = [\mathrm{source}; \mathrm{query}]

    The MLP has one output per query token, which fixes their number. It has a single attention head and no output
    projection.

    Args:
        embed_dims (int): Width C of the tokens.
        query_tokens (int): Number M of query tokens, and hidden width of the MLP.
        init_cfg (dict, optional): Initialisation, see :class:`RWHead`.
    """

    fixed_tokens = True

    def __init__(self, embed_dims: int, query_tokens: int, init_cfg: dict | None = None) -> None:
        super().__init__(embed_dims, num_heads=1, init_cfg=init_cfg)
        positive_int('query_tokens', query_tokens)
        self.norm = nn.LayerNorm(embed_dims)
        self.mlp = MLP(embed_dims, query_tokens, query_tokens)

    def forward(self, source: Tensor, query: Tensor) -> Tensor:
        """``(B, N, C)``, ``(B, M, C)`` -> ``(B, M, C)``."""
        tokens = torch.cat([source, query], 1)
        return weighted_sum(self.mlp(self.norm(tokens)).transpose(1, 2), tokens)
