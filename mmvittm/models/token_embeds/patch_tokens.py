import torch.nn.functional as F
from mmcv.cnn.bricks.transformer import PatchEmbed
from torch import Tensor

from ...errors import UserError
from ...registry import TOKEN_EMBEDS
from ..build import size_2d
from ..position import Grid, PositionEmbedding


@TOKEN_EMBEDS.register_module()
class PatchTokens(PositionEmbedding):
    """One token per image patch, by a convolution whose kernel is its stride, plus a position embedding (ViTTM paper).

    The convolution is computed as the matrix product that it is, which is faster than a kernel for any convolution.

    Sides that the patch size does not divide are padded with zeros at the bottom and right.

    Args:
        patch_size (int | tuple[int, int]): Height and width of a patch, in pixels.
        in_channels (int): Channels of the image.
        embed_dims (int): C, the width of a token.
        img_size (tuple[int, int]): Height and width that the position embeddings are made for, in pixels.

    Raises:
        UserError: If the patch is not positive, larger than ``img_size``, or larger than an image in ``forward``.
    """

    def __init__(self, patch_size: int | tuple[int, int], in_channels: int, embed_dims: int, img_size: Grid) -> None:
        patch_size = size_2d('patch_size', patch_size)
        if patch_size[0] > img_size[0] or patch_size[1] > img_size[1]:
            raise UserError(
                f'patch_size {patch_size[0]}×{patch_size[1]} is larger than img_size {img_size[0]}×{img_size[1]}: '
                'choose a smaller patch or a larger img_size'
            )
        super().__init__(embed_dims, (-(-img_size[0] // patch_size[0]), -(-img_size[1] // patch_size[1])))
        self.patch_size = patch_size
        self.patches = PatchEmbed(in_channels, embed_dims, kernel_size=patch_size, stride=patch_size, padding='corner')

    def forward(self, image: Tensor) -> tuple[Tensor, Grid]:
        """Embed an image.

        Args:
            image (Tensor): ``(B, in_channels, H, W)``.

        Returns:
            tuple: Tokens ``(B, N, C)`` in row-major order, and their grid ``(rows, columns)``.
        """
        height, width = image.shape[2:]
        if height < self.patch_size[0] or width < self.patch_size[1]:
            raise UserError(
                f'an image of {height}×{width} pixels is smaller than a patch of '
                f'{self.patch_size[0]}×{self.patch_size[1]}: enlarge the image or choose a smaller patch_size'
            )
        image = self.patches.adaptive_padding(image)
        rows, columns = grid = image.shape[2] // self.patch_size[0], image.shape[3] // self.patch_size[1]
        patches = image.unflatten(3, (columns, -1)).unflatten(2, (rows, -1)).permute(0, 2, 4, 1, 3, 5)
        projection = self.patches.projection
        tokens = F.linear(patches.flatten(3).flatten(1, 2), projection.weight.flatten(1), projection.bias)
        return tokens + self.positions(grid), grid
