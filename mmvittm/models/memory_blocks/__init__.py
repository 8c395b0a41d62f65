"""Memory blocks: what a layer does to the memory around its write."""

from .base import MemoryBlock
from .convnext import MemoryConvNeXt
from .mlp import MemoryMLP

__all__ = ['MemoryBlock', 'MemoryConvNeXt', 'MemoryMLP']
