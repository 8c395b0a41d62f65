"""ViT blocks whose attention fades with distance (2D-ALiBi), for images larger than those of the training."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from mmpretrain.models.utils import MultiheadAttention
from torch import Tensor

from .streams import Grid, split_regions


class DistanceAttention(MultiheadAttention):
    """mmpretrain's attention with a bias on the logits, and the same weights."""

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Attend; tokens ``(B, N, C)`` and bias ``(num_heads, N, N)``."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, self.head_dims)).permute(2, 0, 3, 1, 4)
        dropout = self.attn_drop if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), dropout_p=dropout)
        return self.out_drop(self.gamma1(self.proj_drop(self.proj(x.transpose(1, 2).flatten(2)))))


class DistanceLayer(TransformerEncoderLayer):
    """mmpretrain's ViT block around :class:`DistanceAttention`, with the same weights.

    Its arguments are those that a ViTTM gives its ViT blocks.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.attn = DistanceAttention(
            embed_dims=self.embed_dims,
            num_heads=kwargs['num_heads'],
            proj_drop=kwargs['drop_rate'],
            dropout_layer=dict(type='DropPath', drop_prob=kwargs['drop_path_rate']),
            qkv_bias=kwargs['qkv_bias'],
            layer_scale_init_value=kwargs['layer_scale_init_value'],
        )

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Run the block; tokens ``(B, N, C)`` and bias ``(num_heads, N, N)``."""
        x = x + self.attn(self.ln1(x), bias)
        return self.ffn(self.ln2(x), identity=x)


def distance_bias(grid: Grid, regions: Grid, slopes: Sequence[float], like: Tensor) -> Tensor:
    """Return minus slope times Euclidean distance between tokens (CROMA, arXiv 2311.00566, after ALiBi, 2108.12409).

    Args:
        grid (tuple[int, int]): Rows and columns of the tokens, which are one unit apart.
        regions (tuple[int, int]): Regions by which the tokens are ordered, from top to bottom and from left to right.
        slopes (Sequence[float]): One for each head.
        like (Tensor): Gives device and dtype. Distances are computed in fp32 at least.

    Returns:
        Tensor: ``(num_heads, N, N)``.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)  # fp16 overflows from a distance of 256 on
    rows, columns = (torch.arange(side, device=like.device, dtype=dtype) for side in grid)
    places = torch.stack(torch.meshgrid(rows, columns, indexing='ij'), -1).reshape(1, -1, 2)
    places = split_regions(places, grid, regions).flatten(0, 1)
    distances = (places[:, None] - places).square().sum(-1).sqrt()
    return (-like.new_tensor(slopes, dtype=dtype)[:, None, None] * distances).to(like.dtype)
