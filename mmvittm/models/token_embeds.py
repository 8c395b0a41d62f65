"""Token embeddings: make the tokens of a stream, with their learned absolute position embeddings."""

from abc import abstractmethod
from logging import WARNING
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks.transformer import PatchEmbed
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.model.weight_init import trunc_normal_
from torch import Tensor, nn

from ..errors import UserError
from ..registry import TOKEN_EMBEDS
from .builder import positive_int, size_2d
from .streams import Grid


def resample_pos_embed(pos_embed: Tensor, source: Grid, target: Grid) -> Tensor:
    """Resample position embeddings bicubically with antialiasing, in fp32, as the authors' code does.

    Args:
        pos_embed (Tensor): ``(1, N, C)`` on the grid ``source``, ``N = source[0] * source[1]``.
        source (tuple[int, int]): Rows and columns of ``pos_embed``.
        target (tuple[int, int]): Rows and columns of the result.

    Returns:
        Tensor: ``(1, target[0] * target[1], C)``, in the dtype of ``pos_embed``.
    """
    if source == target:
        return pos_embed
    grid = pos_embed.float().reshape(1, *source, -1).permute(0, 3, 1, 2)
    # Antialiasing also changes the kernel when enlarging; without it the numbers differ from the authors'.
    grid = F.interpolate(grid, size=target, mode='bicubic', align_corners=False, antialias=True)
    return grid.flatten(2).transpose(1, 2).to(pos_embed.dtype)


def grid_of(num_tokens: int, model_grid: Grid) -> Grid:
    """Infer the grid of a stored position embedding from its length.

    Args:
        num_tokens (int): Length of the stored embedding.
        model_grid (tuple[int, int]): Grid of the model that loads it.

    Returns:
        tuple[int, int]: The model's own grid if the length fits, else a square, else a grid of the same aspect ratio.
        A length that fits the last two, such as 576 for 16:9, is read as a square, with a warning.

    Raises:
        UserError: If none of these has ``num_tokens`` tokens.
    """
    rows, columns = model_grid
    if num_tokens == rows * columns:
        return model_grid
    side, height = isqrt(num_tokens), isqrt(num_tokens * rows // columns)
    width = num_tokens // max(height, 1)
    square = side * side == num_tokens
    alike = height * width == num_tokens and height * columns == width * rows
    if square and alike and rows != columns:
        print_log(
            f'a position embedding of {num_tokens} tokens may be {side}×{side} or {height}×{width}, and is read as '
            f'{side}×{side}: if that is wrong, build the model with the img_size that the checkpoint was trained at',
            logger='current',
            level=WARNING,
        )
    if square:
        return side, side
    if alike:
        return height, width
    raise UserError(
        f'a position embedding of {num_tokens} tokens is neither square nor of the aspect ratio {rows}×{columns}: '
        'build the model with the img_size that the checkpoint was trained at'
    )


class TokenEmbed(BaseModule):
    """Base class: tokens on a grid, each with a learned position embedding.

    ``embed(image)``, or ``embed(map of the other stream)``, returns tokens ``(B, N, C)`` in row-major order and their
    grid. A checkpoint of another grid is resampled when it is loaded.

    Args:
        embed_dims (int): Width C of the tokens.
        grid (tuple[int, int]): Rows and columns of the position embedding.
        init_cfg (dict, optional): Initialisation config.

    Attributes:
        pos_embed (nn.Parameter): ``(1, N, C)``, initialised by a truncated normal of std 0.02.
        from_image (bool): Whether the tokens are computed from the image.
        from_other_stream (bool): Whether the tokens are computed from the other stream's map.
    """

    from_image = True
    from_other_stream = False

    def __init__(self, embed_dims: int, grid: Grid, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.grid = grid
        self.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1], embed_dims))
        # for models without init_weights(); the layers drawn next neither depend on it nor draw the same numbers
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(torch.randint(2**62, (), device='cpu')))
            trunc_normal_(self.pos_embed, std=0.02)

    def grid_for(self, source: Grid) -> Grid:
        """Grid of the tokens made from the other stream's map with ``source`` rows and columns."""
        return self.grid

    def stored_grid(self, num_tokens: int) -> Grid:
        """Grid of a stored position embedding of ``num_tokens`` tokens."""
        return grid_of(num_tokens, self.grid)

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Make the tokens.

        Args:
            x (Tensor): Images ``(B, in_channels, H, W)``; with ``from_other_stream`` the map ``(B, C, H', W')`` of the
                other stream.

        Returns:
            tuple: Tokens ``(B, N, C)`` and their grid ``(rows, columns)``.
        """

    def init_weights(self) -> None:
        super().init_weights()
        if not isinstance(self.init_cfg, dict) or self.init_cfg.get('type') != 'Pretrained':
            trunc_normal_(self.pos_embed, std=0.02)

    def positions(self, grid: Grid) -> Tensor:
        """Return the position embedding for ``grid``, ``(1, rows · columns, C)``."""
        return resample_pos_embed(self.pos_embed, self.grid, grid)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        key = f'{prefix}pos_embed'
        loaded = state_dict.get(key)
        # torch itself reports another width
        if loaded is not None and loaded.ndim == 3 and loaded.shape[2] == self.pos_embed.shape[2]:
            source = self.stored_grid(loaded.shape[1])
            if source != self.grid:
                print_log(
                    f'{key} resampled from {source[0]}×{source[1]} to {self.grid[0]}×{self.grid[1]}', logger='current'
                )
                state_dict[key] = resample_pos_embed(loaded, source, self.grid)
        super()._load_from_state_dict(state_dict, prefix, *args)


@TOKEN_EMBEDS.register_module()
class PatchTokens(TokenEmbed):
    """One token per image patch: a convolution with kernel = stride = patch, plus a position embedding (ViTTM paper).

    The convolution runs as a matrix product, which is faster than a convolution kernel. Images are padded with zeros at
    the bottom and right to whole patches.

    Args:
        patch_size (int | tuple[int, int]): Height and width of a patch in pixels.
        in_channels (int): Channels of the image.
        embed_dims (int): Width C of the tokens.
        img_size (tuple[int, int]): Height and width in pixels that the position embedding is made for.

    Raises:
        UserError: If the patch is not positive or larger than ``img_size``, or an image in ``forward`` is smaller than
            a patch or has other channels.
    """

    def __init__(self, patch_size: int | Grid, in_channels: int, embed_dims: int, img_size: Grid) -> None:
        patch_size = size_2d('patch_size', patch_size)
        if patch_size[0] > img_size[0] or patch_size[1] > img_size[1]:
            raise UserError(
                f'patch_size {patch_size[0]}×{patch_size[1]} is larger than img_size {img_size[0]}×{img_size[1]}: '
                'choose a smaller patch or a larger img_size'
            )
        super().__init__(embed_dims, (-(-img_size[0] // patch_size[0]), -(-img_size[1] // patch_size[1])))
        self.patch_size = patch_size
        self.in_channels = positive_int('in_channels', in_channels)
        self.patches = PatchEmbed(in_channels, embed_dims, kernel_size=patch_size, stride=patch_size, padding='corner')

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Images ``(B, in_channels, H, W)`` -> tokens ``(B, N, C)`` and their grid."""
        channels, height, width = x.shape[1:]
        if channels != self.in_channels:
            raise UserError(
                f'the image has {channels} channels in its shape {tuple(x.shape)}, (B, C, H, W), and in_channels is '
                f'{self.in_channels}: set in_channels of the backbone, and mean and std of the data_preprocessor'
            )
        if height < self.patch_size[0] or width < self.patch_size[1]:
            raise UserError(
                f'an image of {height}×{width} pixels is smaller than a patch of '
                f'{self.patch_size[0]}×{self.patch_size[1]}: enlarge the image or choose a smaller patch_size'
            )
        tokens, grid = self.project(x)
        return tokens + self.positions(grid), grid

    def project(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Images ``(B, in_channels, H, W)`` -> tokens ``(B, N, C)`` without positions, and their grid."""
        projection = self.patches.projection
        if type(projection) is not nn.Conv2d or projection._forward_hooks or projection._forward_pre_hooks:
            return self.patches(x)  # an adapter or hook acts in the call of the convolution, not on its weight
        x = self.patches.adaptive_padding(x)
        rows, columns = grid = x.shape[2] // self.patch_size[0], x.shape[3] // self.patch_size[1]
        patches = x.unflatten(3, (columns, -1)).unflatten(2, (rows, -1)).permute(0, 2, 4, 1, 3, 5)
        return F.linear(patches.flatten(3).flatten(1, 2), projection.weight.flatten(1), projection.bias), grid


@TOKEN_EMBEDS.register_module()
class PooledTokens(TokenEmbed):
    """Average the other stream's tokens over a fixed, coarser grid and add a position embedding (ViTTM paper).

    Args:
        grid (int | tuple[int, int]): Rows and columns of the tokens, for every input size.
        embed_dims (int): Width C of the tokens.
    """

    from_image = False
    from_other_stream = True

    def __init__(self, grid: int | Grid, embed_dims: int) -> None:
        super().__init__(embed_dims, size_2d('grid', grid))

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """The other stream's map ``(B, C, H', W')`` -> tokens ``(B, N, C)`` and their grid."""
        grid = self.grid_for((x.shape[2], x.shape[3]))
        pooled = F.adaptive_avg_pool2d(x, grid)
        return pooled.flatten(2).transpose(1, 2) + self.positions(grid), grid


@TOKEN_EMBEDS.register_module()
class PooledCells(PooledTokens):
    """Average the other stream's tokens over square cells, whose number of columns follows the aspect ratio.

    A window of full height then has the same cells as the whole scene, only fewer. The position embedding has one
    column, so it encodes the row alone: on a map of the Earth, the latitude.

    Args:
        rows (int): Rows of cells, for every input size.
        embed_dims (int): Width C of the tokens.
    """

    def __init__(self, rows: int, embed_dims: int) -> None:
        super().__init__((positive_int('rows', rows), 1), embed_dims)

    def grid_for(self, source: Grid) -> Grid:
        """The rows, and the columns that make the cells square, at least one."""
        rows = self.grid[0]
        return rows, max(1, round(rows * int(source[1]) / int(source[0])))  # int: tracing makes sizes tensors

    def stored_grid(self, num_tokens: int) -> Grid:
        """One column, of any number of rows."""
        return num_tokens, 1


@TOKEN_EMBEDS.register_module()
class LearnedTokens(TokenEmbed):
    """Learned tokens, the same for every image (ViTTM paper: latent initialisation).

    The position embedding is the token: a second parameter would only be added to it.

    Args:
        grid (int | tuple[int, int]): Rows and columns of the tokens, for every input size.
        embed_dims (int): Width C of the tokens.
    """

    from_image = False

    def __init__(self, grid: int | Grid, embed_dims: int) -> None:
        super().__init__(embed_dims, size_2d('grid', grid))

    def forward(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Images ``(B, in_channels, H, W)`` -> the tokens ``(B, N, C)``, repeated for each image, and their grid."""
        return self.pos_embed.expand(x.shape[0], -1, -1), self.grid
