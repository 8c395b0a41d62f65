from torch import Tensor, nn

from ...registry import RW_HEADS
from ..builder import check_tokens, positive_int
from .base import RWHead, merge_heads, weighted_sum


@RW_HEADS.register_module()
class DynaMixer(RWHead):
    r"""Source tokens mixed by matrices that are generated from the tokens themselves (DynaMixer, Wang et al. 2022).

    .. math:: W_o\,\mathrm{concat}_h\bigl(\mathrm{softmax}_{tokens}(P_h)\,x_h\bigr),\quad
              P_h = \mathrm{reshape}_{M \times N}\bigl(W_g\,\mathrm{flatten}(x W_{c,h})\bigr),\quad
              x = \mathrm{LN}(\mathrm{source})

    After `DynaMixer: A Vision MLP Architecture with Dynamic Mixing <https://arxiv.org/abs/2201.12083>`_: per head a
    compression of each token to a few numbers, and one generator, shared by the heads, that maps all of them at once to
    a mixing matrix. Ours is the generalisation from N×N to M×N matrices, for M query tokens, and that the LayerNorm is
    part of the head. There are no reference numbers: the head of the ViTTM authors does not run.

    The update depends on the source alone. The generator holds ``N · reduced_dims · M · N`` weights: meant for small
    numbers of tokens.

    Args:
        embed_dims (int): C, the width of the tokens.
        num_heads (int): Number of heads (the segments of the DynaMixer paper).
        source_tokens (int): N, the number of source tokens.
        query_tokens (int): M, the number of query tokens.
        reduced_dims (int): Numbers that each head compresses a token to. Defaults to 2, as in the DynaMixer paper.
        source_name (str): What errors call the source tokens. Defaults to 'source'.
        query_name (str): What errors call the query tokens. Defaults to 'query'.

    Raises:
        UserError: If ``forward`` gets other numbers of tokens.
    """

    uses_query = False

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        source_tokens: int,
        query_tokens: int,
        reduced_dims: int = 2,
        source_name: str = 'source',
        query_name: str = 'query',
    ) -> None:
        super().__init__(embed_dims, num_heads)
        self.source_tokens = positive_int('source_tokens', source_tokens)
        self.query_tokens = positive_int('query_tokens', query_tokens)
        self.source_name = source_name
        self.query_name = query_name
        positive_int('reduced_dims', reduced_dims)
        self.norm = nn.LayerNorm(embed_dims)
        self.compress = nn.Linear(embed_dims, num_heads * reduced_dims)
        self.generate = nn.Linear(source_tokens * reduced_dims, query_tokens * source_tokens)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, source: Tensor, query: Tensor) -> Tensor:
        """``(B, N, C)``, ``(B, M, C)`` -> ``(B, M, C)``."""
        check_tokens(self, self.source_name, self.source_tokens, source)
        check_tokens(self, self.query_name, self.query_tokens, query)
        source = self.norm(source)
        compressed = self.split_heads(self.compress(source)).flatten(2)
        scores = self.generate(compressed).unflatten(2, (self.query_tokens, self.source_tokens))
        return self.proj(merge_heads(weighted_sum(scores, self.split_heads(source))))
