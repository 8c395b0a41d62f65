from collections.abc import Callable

from mmengine.model import BaseModule
from torch import Tensor, nn

from ...registry import MEMORY_BLOCKS


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
