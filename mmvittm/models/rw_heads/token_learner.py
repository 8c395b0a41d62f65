import torch
from torch import Tensor, nn

from ...registry import RW_HEADS
from ..builder import check_tokens, positive_int
from ..mlp import MLP
from .base import RWHead, weighted_sum


@RW_HEADS.register_module()
class TokenLearner(RWHead):
    r"""Each updated token a weighted mean of all tokens, source and query (Ryoo et al. 2021; ViTTM paper).

    .. math:: \mathrm{softmax}_{tokens}(\mathrm{MLP}(\mathrm{LN}(c))^\top)\,c,\quad
              c = [\mathrm{source}; \mathrm{query}]

    The MLP has one output per query token, so that the number of query tokens is fixed; any number of source tokens
    is taken. There is one head and no output projection.

    Args:
        embed_dims (int): C, the width of the tokens.
        query_tokens (int): M, the number of query tokens, and the hidden width of the MLP.
        query_name (str): What errors call the query tokens. Defaults to 'query'.

    Raises:
        UserError: If ``forward`` gets another number of query tokens.
    """

    shift_invariant = ('mlp.fc2.bias',)

    def __init__(self, embed_dims: int, query_tokens: int, query_name: str = 'query') -> None:
        super().__init__(embed_dims, num_heads=1)
        self.query_tokens = positive_int('query_tokens', query_tokens)
        self.query_name = query_name
        self.norm = nn.LayerNorm(embed_dims)
        self.mlp = MLP(embed_dims, query_tokens, query_tokens)

    def forward(self, source: Tensor, query: Tensor) -> Tensor:
        """``(B, N, C)``, ``(B, M, C)`` -> ``(B, M, C)``."""
        check_tokens(self, self.query_name, self.query_tokens, query)
        tokens = torch.cat([source, query], 1)
        return weighted_sum(self.mlp(self.norm(tokens)).transpose(1, 2), tokens)
