"""Memory blocks: what a layer does to the memory around its write."""

from collections.abc import Callable

from mmengine.model import BaseModule
from mmpretrain.models.backbones.convnext import ConvNeXtBlock
from torch import Tensor, nn

from ..errors import UserError
from ..registry import MEMORY_BLOCKS
from .builder import positive_int, positive_ratio
from .mlp import MLP


@MEMORY_BLOCKS.register_module()
class MemoryBlock(BaseModule):
    """What a memory block is: ``block(memory, write) -> memory``, where it calls ``write`` exactly once.

    The block is handed the write, so that it may work before it as well as after it. This class only writes,
    as every published model does. A block whose constructor names ``embed_dims`` is given this number.
    """

    @property
    def before_write(self) -> list[nn.Module]:
        """Modules that nothing but the write sees the output of."""
        return []

    def forward(self, memory: Tensor, write: Callable[[Tensor], Tensor]) -> Tensor:
        """``(B, N, C)`` -> ``(B, N, C)``."""
        return write(memory)


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


@MEMORY_BLOCKS.register_module()
class MemoryConvNeXt(MemoryBlock):
    """``m + decode(write(encode(m)))``, where both are ConvNeXt blocks along the sequence of tokens (ViTTM paper).

    The paper names the parts; these choices are ours, and there are no reference numbers, as the authors' block does
    not run: the number of tokens stays the same, so that every head and every number of tokens works; one residual
    ConvNeXt block on each side (depthwise convolution, LayerNorm, two linear layers with GELU), without layer scale,
    since LayerNorms bound the stream before and after.

    Args:
        embed_dims (int): C, the width of the tokens.
        kernel_size (int): Tokens that the convolution sees, an odd number; zeros beyond the ends. Defaults to 7.
        mlp_ratio (float): Hidden width of the linear layers over ``embed_dims``. Defaults to 4.
    """

    def __init__(self, embed_dims: int, kernel_size: int = 7, mlp_ratio: float = 4.0) -> None:
        # ConvNeXt's own initialisation
        super().__init__(init_cfg=dict(type='TruncNormal', layer=['Conv2d', 'Linear'], std=0.02, bias=0.0))
        if positive_int('kernel_size', kernel_size) % 2 == 0:
            raise UserError(f'kernel_size must be odd, to be centred on a token, not {kernel_size}')
        positive_ratio('mlp_ratio', mlp_ratio, embed_dims)

        def block() -> ConvNeXtBlock:
            return ConvNeXtBlock(
                embed_dims,
                dw_conv_cfg=dict(kernel_size=(1, kernel_size), padding=(0, kernel_size // 2)),
                norm_cfg=dict(type='LN2d', eps=1e-5),
                mlp_ratio=mlp_ratio,
                layer_scale_init_value=0.0,
            )

        self.encoder = block()
        self.decoder = block()

    @property
    def before_write(self) -> list[nn.Module]:
        return [self.encoder]

    def forward(self, memory: Tensor, write: Callable[[Tensor], Tensor]) -> Tensor:
        """``(B, N, C)`` -> ``(B, N, C)``."""
        return memory + along_tokens(self.decoder, write(along_tokens(self.encoder, memory)))


def along_tokens(block: ConvNeXtBlock, tokens: Tensor) -> Tensor:
    """Apply a block of maps to tokens ``(B, N, C)``, as maps ``(B, C, 1, N)``."""
    return block(tokens.transpose(1, 2).unsqueeze(2)).squeeze(2).transpose(1, 2)
