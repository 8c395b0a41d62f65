from torch import Tensor, nn

from ...registry import RW_HEADS
from ..builder import positive_int
from .base import RWHead, merge_heads, softmax, weighted_sum


@RW_HEADS.register_module()
class DynaMixer(RWHead):
    r"""Mix the source tokens by matrices generated from them (DynaMixer, Wang et al. 2022).

    .. math:: W_o\,\mathrm{concat}_h\bigl(\mathrm{softmax}_{tokens}(P_h)\,x_h\bigr),\quad
              P_h = \mathrm{reshape}_{M \times N}\bigl(W_g\,\mathrm{flatten}(x W_{c,h})\bigr),\quad
              x = \mathrm{LN}(\mathrm{source})

    Follows `DynaMixer: A Vision MLP Architecture with Dynamic Mixing <https://arxiv.org/abs/2201.12083>`_: each head
    compresses every token to a few numbers, and one generator, shared by the heads, maps all of these numbers to a
    mixing matrix. We generalised the matrices from N×N to M×N, for M query tokens, and put the LayerNorm into the head.
    There are no reference numbers: the head of the ViTTM authors does not run.

    The update depends on the source alone. The generator has ``N · reduced_dims · M · N`` weights, so use it for few
    tokens.

    Args:
        embed_dims (int): Width C of the tokens.
        num_heads (int): Number of heads (the segments of the DynaMixer paper).
        source_tokens (int): Number N of source tokens.
        query_tokens (int): Number M of query tokens.
        reduced_dims (int): Numbers that each head compresses a token to. Defaults to 2, as in the DynaMixer paper.
        init_cfg (dict, optional): Initialisation, see :class:`RWHead`.
    """

    fixed_tokens = True

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        source_tokens: int,
        query_tokens: int,
        reduced_dims: int = 2,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(embed_dims, num_heads, init_cfg)
        self.source_tokens = positive_int('source_tokens', source_tokens)
        self.query_tokens = positive_int('query_tokens', query_tokens)
        positive_int('reduced_dims', reduced_dims)
        self.norm = nn.LayerNorm(embed_dims)
        self.compress = nn.Linear(embed_dims, num_heads * reduced_dims)
        self.generate = nn.Linear(source_tokens * reduced_dims, query_tokens * source_tokens)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, source: Tensor, query: Tensor) -> Tensor:
        """``(B, N, C)``, ``(B, M, C)`` -> ``(B, M, C)``."""
        source = self.norm(source)
        return self.proj(merge_heads(weighted_sum(self._scores(source), self.split_heads(source))))

    def attention_map(self, source: Tensor, query: Tensor) -> Tensor:
        """``(B, N, C)``, ``(B, M, C)`` -> ``(B, h, M, N)``: the mixing matrices."""
        return softmax(self._scores(self.norm(source)))

    def _scores(self, source: Tensor) -> Tensor:
        compressed = self.split_heads(self.compress(source)).flatten(2)
        return self.generate(compressed).unflatten(2, (self.query_tokens, self.source_tokens))
