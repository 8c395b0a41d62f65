import torch.nn.functional as F
from torch import Tensor

from ...registry import TOKEN_EMBEDS
from ..build import size_2d
from ..position import Grid, PositionEmbedding


@TOKEN_EMBEDS.register_module()
class PooledTokens(PositionEmbedding):
    """The other stream's tokens averaged over a coarser grid, plus a position embedding of their own (ViTTM paper).

    The grid is the same for every input size.

    Args:
        grid (int | tuple[int, int]): Rows and columns of the tokens.
        embed_dims (int): C, the width of a token.
    """

    from_image = False
    from_other_stream = True

    def __init__(self, grid: int | Grid, embed_dims: int) -> None:
        super().__init__(embed_dims, size_2d('grid', grid))

    def forward(self, other: Tensor) -> tuple[Tensor, Grid]:
        """Pool the other stream.

        Args:
            other (Tensor): Its embedded tokens as a map ``(B, C, H, W)``.

        Returns:
            tuple: Tokens ``(B, N, C)`` in row-major order, and their grid ``(rows, columns)``.
        """
        pooled = F.adaptive_avg_pool2d(other, self.grid)
        return pooled.flatten(2).transpose(1, 2) + self.pos_embed, self.grid
