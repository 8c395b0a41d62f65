"""Read/write heads: how one stream's tokens are brought to the other's."""

from .base import RWHead
from .linear_attention import LinearAttention

__all__ = ['LinearAttention', 'RWHead']
