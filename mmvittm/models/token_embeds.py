"""Token embeddings: how the tokens of a stream are made, and their position embeddings."""

from math import isqrt

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.transformer import PatchEmbed
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.model.weight_init import trunc_normal_
from torch import Tensor, nn

from ..errors import UserError
from ..registry import TOKEN_EMBEDS
from .builder import size_2d

Grid = tuple[int, int]


def resample_pos_embed(pos_embed: Tensor, source: Grid, target: Grid) -> Tensor:
    """Resample position embeddings bicubically with antialiasing, in fp32 (reference: the authors' release).

    Args:
        pos_embed (Tensor): ``(1, N, C)`` on the grid ``source``, ``N = source[0] * source[1]``.
        source (tuple[int, int]): Rows and columns that the embeddings were made for.
        target (tuple[int, int]): Rows and columns wanted.

    Returns:
        Tensor: ``(1, target[0] * target[1], C)``, in the dtype of ``pos_embed``.
    """
    if source == target:
        return pos_embed
    grid = pos_embed.float().reshape(1, *source, -1).permute(0, 3, 1, 2)
    # Antialiasing changes the kernel when enlarging too; without it the numbers differ from the authors'.
    grid = F.interpolate(grid, size=target, mode='bicubic', align_corners=False, antialias=True)
    return grid.flatten(2).transpose(1, 2).to(pos_embed.dtype)


def _is_traced() -> bool:
    # torch.compiler tells from torch 2.3 on, torch._dynamo already in 2.1
    return torch.jit.is_tracing() or torch._dynamo.is_compiling()


def grid_of(num_tokens: int, like: Grid) -> Grid:
    """The grid of a stored embedding, which holds only its number of tokens.

    Args:
        num_tokens (int): Length of the stored embedding.
        like (tuple[int, int]): The model's own grid.

    Returns:
        tuple[int, int]: ``like`` if it has that many tokens, else the square, else the grid of ``like``'s proportions.

    Raises:
        UserError: If the number fits neither.
    """
    rows, columns = like
    if num_tokens == rows * columns:
        return like
    side = isqrt(num_tokens)
    if side * side == num_tokens:
        return side, side
    height = isqrt(num_tokens * rows // columns)
    for candidate in (height, height + 1):
        if candidate and num_tokens % candidate == 0 and candidate * columns == num_tokens // candidate * rows:
            return candidate, num_tokens // candidate
    raise UserError(
        f'a position embedding of {num_tokens} tokens is neither square nor of the proportions {rows}×{columns}: '
        'build the model with the img_size that the checkpoint was trained at'
    )


class PositionEmbedding(BaseModule):
    """Base of the token embeddings: tokens on a grid, each with a learned position embedding.

    ``embed(image)``, or ``embed(map of the other stream)``, gives tokens ``(B, N, C)`` in row-major order and their
    grid. A checkpoint of another grid is resampled on loading.

    Args:
        embed_dims (int): C, the width of a token.
        grid (tuple[int, int]): Rows and columns of the embeddings.
        init_cfg (dict, optional): Initialisation config.

    Attributes:
        pos_embed (nn.Parameter): ``(1, N, C)``, truncated normal with std 0.02.
        from_image (bool): Whether the tokens depend on the image by themselves.
        from_other_stream (bool): Whether they are made from the other stream's map instead.
    """

    from_image = True
    from_other_stream = False

    def __init__(self, embed_dims: int, grid: Grid, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.grid = grid
        self.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1], embed_dims))
        self._resampled: tuple[tuple[Grid, int], Tensor] | None = None

    def init_weights(self) -> None:
        super().init_weights()
        trunc_normal_(self.pos_embed, std=0.02)

    def positions(self, grid: Grid) -> Tensor:
        """Embeddings for ``grid``: ``(1, grid[0] * grid[1], C)``; without gradients the last ones are kept."""
        if grid == self.grid or torch.is_grad_enabled() or self.pos_embed.is_inference() or _is_traced():
            return resample_pos_embed(self.pos_embed, self.grid, grid)
        key = grid, self.pos_embed._version
        if self._resampled is None or self._resampled[0] != key:
            self._resampled = key, resample_pos_embed(self.pos_embed, self.grid, grid)
        return self._resampled[1]

    def train(self, mode: bool = True) -> 'PositionEmbedding':
        """Set the mode; it also ends what writing to ``pos_embed.data``, as mmengine's EMA does, leaves outdated."""
        self._resampled = None
        return super().train(mode)

    def _apply(self, *args, **kwargs) -> 'PositionEmbedding':
        self._resampled = None
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        key = f'{prefix}pos_embed'
        loaded = state_dict.get(key)
        # Another width is left for torch to report.
        if loaded is not None and loaded.ndim == 3 and loaded.shape[2] == self.pos_embed.shape[2]:
            source = grid_of(loaded.shape[1], self.grid)
            if source != self.grid:
                print_log(
                    f'{key} resampled from {source[0]}×{source[1]} to {self.grid[0]}×{self.grid[1]}', logger='current'
                )
                state_dict[key] = resample_pos_embed(loaded, source, self.grid)
        super()._load_from_state_dict(state_dict, prefix, *args)


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
