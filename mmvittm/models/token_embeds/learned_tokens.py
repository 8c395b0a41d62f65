from torch import Tensor

from ...registry import TOKEN_EMBEDS
from ..build import size_2d
from ..position import Grid, PositionEmbedding


@TOKEN_EMBEDS.register_module()
class LearnedTokens(PositionEmbedding):
    """Learned tokens, the same for every image (ViTTM paper: latent initialisation).

    A token's position embedding is the token: a second parameter would only be added to it. The grid is the same for
    every input size.

    Args:
        grid (int | tuple[int, int]): Rows and columns of the tokens.
        embed_dims (int): C, the width of a token.
    """

    from_image = False

    def __init__(self, grid: int | Grid, embed_dims: int) -> None:
        super().__init__(embed_dims, size_2d('grid', grid))

    def forward(self, image: Tensor) -> tuple[Tensor, Grid]:
        """Repeat the tokens for each image.

        Args:
            image (Tensor): ``(B, in_channels, H, W)``, of which B alone matters.

        Returns:
            tuple: Tokens ``(B, N, C)`` in row-major order, and their grid ``(rows, columns)``.
        """
        return self.pos_embed.expand(image.shape[0], -1, -1), self.grid
