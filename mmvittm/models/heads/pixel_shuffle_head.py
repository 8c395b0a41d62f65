from collections.abc import Sequence
from typing import Any

import torch
from mmpretrain.models.utils import LayerNorm2d
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from ...registry import MODELS
from ..builder import positive_int


@MODELS.register_module()
class PixelShuffleHead(BaseDecodeHead):
    """Convolutional decode head that turns each token into ``upscale × upscale`` pixels.

    Maps of one grid are concatenated and mixed, pass one 3×3 convolution on that grid, are shuffled to the finer grid,
    and pass one 3×3 convolution there. The receptive field is local, so large scenes can be decoded in windows.
    Parameters have PyTorch's initialisation.

    Args:
        in_channels (Sequence[int]): Channels of each map.
        in_index (Sequence[int]): Indices of these maps among the backbone's outputs.
        channels (int): Width on the finer grid.
        token_channels (int): Width on the grid of the maps.
        upscale (int): Rows and columns of logits per token; a patch of 16 pixels and 4 give logits of stride 4.
        **kwargs: As for :class:`mmseg.models.decode_heads.decode_head.BaseDecodeHead`.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_index: Sequence[int],
        channels: int,
        token_channels: int = 128,
        upscale: int = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            in_index=in_index,
            channels=channels,
            input_transform='multiple_select',
            init_cfg=kwargs.pop('init_cfg', []),
            **kwargs,
        )
        upscale = positive_int('upscale', upscale)
        self.tokens = nn.Sequential(
            nn.Conv2d(sum(in_channels), token_channels, 1),
            LayerNorm2d(token_channels),
            nn.GELU(),
            nn.Conv2d(token_channels, token_channels, 3, padding=1),
            LayerNorm2d(token_channels),
            nn.GELU(),
        )
        self.pixels = nn.Sequential(
            nn.Conv2d(token_channels, channels * upscale**2, 1),
            nn.PixelShuffle(upscale),
            LayerNorm2d(channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GELU(),
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Maps ``(B, C, H, W)`` -> logits ``(B, num_classes, H · upscale, W · upscale)``."""
        maps = torch.cat(self._transform_inputs(inputs), 1)
        return self.cls_seg(self.pixels(self.tokens(maps)))
