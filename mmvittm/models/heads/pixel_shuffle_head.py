from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from mmpretrain.models.backbones.convnext import ConvNeXtBlock
from mmpretrain.models.utils import build_norm_layer
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import accuracy
from mmseg.models.utils import resize
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ...registry import MODELS
from ..builder import positive_int


@MODELS.register_module()
class PixelShuffleHead(BaseDecodeHead):
    """Convolutional decode head that turns each token into ``upscale × upscale`` pixels.

    Maps of one grid are concatenated and mixed, pass one 3×3 convolution and ConvNeXt blocks on that grid, are shuffled
    to a finer grid, pass one 3×3 convolution there, and are shuffled once more. The first map, which is the closest to
    the pixels, is also shuffled directly. The receptive field is local, so large scenes can be decoded in windows.
    Parameters have PyTorch's initialisation.

    Args:
        in_channels (Sequence[int]): Channels of each map.
        in_index (Sequence[int]): Indices of these maps among the backbone's outputs.
        channels (int): Width on the finest grid, of the logits.
        pixel_channels (int): Width on the grid between.
        token_channels (int): Width on the grid of the maps.
        num_blocks (int): ConvNeXt blocks on the grid of the maps; each sees three more tokens on every side.
        upscale (int): Rows and columns of the grid between, per token.
        fine_upscale (int): Rows and columns of logits, per row and column of the grid between. A patch of 16 pixels,
            4 and 2 give logits of stride 2.
        norm_cfg (dict): Config of the norms outside of the ConvNeXt blocks. ``LN2d`` normalizes each token by itself,
            so a window and the whole scene give the same logits; the means of batch norm differ between them.
        **kwargs: As for :class:`mmseg.models.decode_heads.decode_head.BaseDecodeHead`; ``conv_cfg`` and ``act_cfg``
            have no effect.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_index: Sequence[int],
        channels: int,
        token_channels: int = 128,
        pixel_channels: int = 32,
        num_blocks: int = 0,
        upscale: int = 4,
        fine_upscale: int = 1,
        norm_cfg: dict = dict(type='LN2d'),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            in_index=in_index,
            channels=channels,
            input_transform='multiple_select',
            norm_cfg=norm_cfg,
            init_cfg=kwargs.pop('init_cfg', []),
            **kwargs,
        )
        upscale, fine_upscale = positive_int('upscale', upscale), positive_int('fine_upscale', fine_upscale)
        norm = partial(build_norm_layer, norm_cfg)
        block = partial(ConvNeXtBlock, norm_cfg=dict(type='LN2d', eps=1e-5), mlp_ratio=2, layer_scale_init_value=0.0)
        self.norm = norm(sum(in_channels))
        self.tokens = nn.Sequential(
            nn.Conv2d(sum(in_channels), token_channels, 1),
            norm(token_channels),
            nn.GELU(),
            nn.Conv2d(token_channels, token_channels, 3, padding=1),
            norm(token_channels),
            nn.GELU(),
            *(block(token_channels) for _ in range(num_blocks)),
        )
        self.pixels = nn.Sequential(
            nn.Conv2d(token_channels + in_channels[0], pixel_channels * upscale**2, 1),
            nn.PixelShuffle(upscale),
            norm(pixel_channels),
            nn.GELU(),
            nn.Conv2d(pixel_channels, channels * fine_upscale**2, 3, padding=1),
            nn.PixelShuffle(fine_upscale),
            nn.GELU(),
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Maps ``(B, C, H, W)`` -> logits ``(B, num_classes, H · s, W · s)``, ``s = upscale · fine_upscale``."""
        maps = self.norm(torch.cat(self._transform_inputs(inputs), 1))
        tokens = torch.cat([self.tokens(maps), maps[:, : self.in_channels[0]]], 1)
        return self.cls_seg(self.pixels(tokens))

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        """Compute mmseg's losses, and the accuracy on one pixel in 8×8: on all, it takes a fifth of the training."""
        labels = self._stack_batch_gt(batch_data_samples)
        logits = resize(seg_logits, labels.shape[2:], mode='bilinear', align_corners=self.align_corners)
        weight = self.sampler.sample(logits, labels) if self.sampler else None
        labels = labels.squeeze(1)
        losses: dict[str, Tensor] = {}
        for loss in self.loss_decode if isinstance(self.loss_decode, nn.ModuleList) else [self.loss_decode]:
            name = str(loss.loss_name)
            losses[name] = losses.get(name, 0) + loss(logits, labels, weight=weight, ignore_index=self.ignore_index)
        sample = (..., slice(None, None, 8), slice(None, None, 8))
        losses['acc_seg'] = accuracy(logits[sample], labels[sample], ignore_index=self.ignore_index)
        return losses
