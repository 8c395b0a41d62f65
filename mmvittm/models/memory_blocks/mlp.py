from collections.abc import Callable

from torch import Tensor, nn

from ...registry import MEMORY_BLOCKS
from ..build import positive_ratio
from ..mlp import MLP
from .base import MemoryBlock


@MEMORY_BLOCKS.register_module()
class MemoryMLP(MemoryBlock):
    """After the write, ``m + MLP(LN(m))`` on every memory token (ViTTM paper).

    Args:
        embed_dims (int): C, the width of the tokens.
        mlp_ratio (float): Hidden width of the MLP over ``embed_dims``. Defaults to 4.
    """

    def __init__(self, embed_dims: int, mlp_ratio: float = 4.0) -> None:
        # timm's initialisation of a ViT, which the authors keep
        super().__init__(init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0))
        self.norm = nn.LayerNorm(embed_dims)
        self.mlp = MLP(embed_dims, positive_ratio('mlp_ratio', mlp_ratio, embed_dims), embed_dims)

    def forward(self, memory: Tensor, write: Callable[[Tensor], Tensor]) -> Tensor:
        """``(B, N, C)`` -> ``(B, N, C)``."""
        memory = write(memory)
        return memory + self.mlp(self.norm(memory))
