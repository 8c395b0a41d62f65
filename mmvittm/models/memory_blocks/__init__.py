"""Memory blocks: what a layer does to the memory around its write."""

from .base import MemoryBlock

__all__ = ['MemoryBlock']
