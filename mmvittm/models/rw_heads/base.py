from abc import abstractmethod

from mmengine.model import BaseModule
from torch import Tensor

from ...errors import UserError
from ..build import positive_int


class RWHead(BaseModule):
    """What a read/write head is: ``head(source, query) -> update``.

    A head whose constructor also names ``source_tokens`` or ``query_tokens`` is given these numbers, and is bound to
    them.

    Args:
        embed_dims (int): C, the width of the tokens.
        num_heads (int): Number of attention heads; it divides ``embed_dims``.

    Attributes:
        uses_query (bool): Whether the update depends on the query tokens, or on their number alone.
    """

    uses_query = True

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        # timm's initialisation of a ViT, which the authors keep
        super().__init__(init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0))
        self.embed_dims = positive_int('embed_dims', embed_dims)
        self.num_heads = positive_int('num_heads', num_heads)
        if embed_dims % num_heads:
            raise UserError(f'num_heads={num_heads} does not divide embed_dims={embed_dims}: choose a divisor')

    @abstractmethod
    def forward(self, source: Tensor, query: Tensor) -> Tensor:
        """Bring the source to the query's tokens.

        Args:
            source (Tensor): ``(B, N, C)``.
            query (Tensor): ``(B, M, C)``.

        Returns:
            Tensor: ``(B, M, C)``.
        """


def latent_width(embed_dims: int, latent_ratio: int, num_heads: int) -> int:
    """``embed_dims / latent_ratio``, which each of ``num_heads`` heads takes an equal share of."""
    positive_int('latent_ratio', latent_ratio)
    if embed_dims % (latent_ratio * num_heads):
        raise UserError(
            f'latent_ratio={latent_ratio} × num_heads={num_heads} does not divide embed_dims={embed_dims}: '
            'choose a smaller ratio'
        )
    return embed_dims // latent_ratio
