"""Memory blocks: process the memory tokens before and after the write of a layer."""

from mmengine.model import BaseModule
from mmpretrain.models.backbones.convnext import ConvNeXtBlock
from torch import Tensor, nn

from ..errors import UserError
from ..registry import MEMORY_BLOCKS
from .builder import hidden_width, positive_int
from .mlp import MLP


@MEMORY_BLOCKS.register_module()
class MemoryBlock(BaseModule):
    """Base class and default: leaves the memory alone, as every published model does.

    A layer computes ``memory_block(write(memory_block.before_write(memory)), skip=memory)``. The constructor of a block
    is passed ``embed_dims`` if it names it.

    Attributes:
        per_token (bool): True if the block treats each token by itself, as ``memory_chunk`` and scenes need. Not
            inherited: a subclass says so itself.
    """

    per_token = True

    def before_write(self, memory: Tensor) -> Tensor:
        """Return the tokens that the layer writes to: ``(B, N, C)`` -> ``(B, N, C)``."""
        return memory

    def forward(self, memory: Tensor, skip: Tensor) -> Tensor:
        """Process the memory after the write.

        This is ``forward`` so that hooks on the module see the memory that leaves the layer.

        Args:
            memory (Tensor): Written memory tokens ``(B, N, C)``.
            skip (Tensor): The tokens as they were before :meth:`before_write`, ``(B, N, C)``.

        Returns:
            Tensor: ``(B, N, C)``.
        """
        return memory


@MEMORY_BLOCKS.register_module()
class MemoryMLP(MemoryBlock):
    """After the write, ``m + MLP(LN(m))`` on every memory token (ViTTM paper).

    Args:
        embed_dims (int): Width C of the tokens.
        mlp_ratio (float): Hidden width of the MLP divided by ``embed_dims``. Defaults to 4.
    """

    per_token = True

    def __init__(self, embed_dims: int, mlp_ratio: float = 4.0) -> None:
        # the initialisation of timm's ViT, as in the authors' code
        super().__init__(init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0))
        self.norm = nn.LayerNorm(embed_dims)
        self.mlp = MLP(embed_dims, hidden_width('mlp_ratio', mlp_ratio, embed_dims), embed_dims)

    def forward(self, memory: Tensor, skip: Tensor) -> Tensor:
        """``(B, N, C)``, ``(B, N, C)`` -> ``(B, N, C)``."""
        return memory + self.mlp(self.norm(memory))


@MEMORY_BLOCKS.register_module()
class MemoryConvNeXt(MemoryBlock):
    """``m + decode(write(encode(m)))`` with one ConvNeXt block along the token sequence on each side (ViTTM paper).

    The paper names encoder, decoder and skip; the authors' block does not run, so there are no reference numbers. We
    chose: no change of the number of tokens, so that every read/write head fits; residual ConvNeXt blocks (depthwise
    convolution, LayerNorm, two linear layers with GELU); no layer scale, since LayerNorms bound the stream on both
    sides.

    Args:
        embed_dims (int): Width C of the tokens.
        kernel_size (int): Tokens under the convolution, an odd number; the ends are padded with zeros. Defaults to 7.
        mlp_ratio (float): Hidden width of the linear layers divided by ``embed_dims``. Defaults to 4.

    Raises:
        UserError: If ``kernel_size`` is even, or an option is out of range.
    """

    def __init__(self, embed_dims: int, kernel_size: int = 7, mlp_ratio: float = 4.0) -> None:
        # ConvNeXt's own initialisation
        super().__init__(init_cfg=dict(type='TruncNormal', layer=['Conv2d', 'Linear'], std=0.02, bias=0.0))
        if positive_int('kernel_size', kernel_size) % 2 == 0:
            raise UserError(f'kernel_size must be odd, so that the kernel is centred on a token, not {kernel_size}')
        hidden_width('mlp_ratio', mlp_ratio, embed_dims)
        self.encoder, self.decoder = (
            ConvNeXtBlock(
                embed_dims,
                dw_conv_cfg=dict(kernel_size=(1, kernel_size), padding=(0, kernel_size // 2)),
                norm_cfg=dict(type='LN2d', eps=1e-5),
                mlp_ratio=mlp_ratio,
                layer_scale_init_value=0.0,
            )
            for _ in range(2)
        )

    def before_write(self, memory: Tensor) -> Tensor:
        """``(B, N, C)`` -> ``(B, N, C)``."""
        return along_tokens(self.encoder, memory)

    def forward(self, memory: Tensor, skip: Tensor) -> Tensor:
        """``(B, N, C)``, ``(B, N, C)`` -> ``(B, N, C)``."""
        return skip + along_tokens(self.decoder, memory)


def along_tokens(block: ConvNeXtBlock, tokens: Tensor) -> Tensor:
    """Apply a block for maps to tokens ``(B, N, C)``, laid out as a map ``(B, C, 1, N)``."""
    return block(tokens.transpose(1, 2).unsqueeze(2)).squeeze(2).transpose(1, 2)
