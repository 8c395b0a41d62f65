"""Fusions: how a stream takes an update in."""

from .add import AddFusion
from .add_erase import AddEraseFusion
from .base import Fusion
from .erase import EraseFusion

__all__ = ['AddEraseFusion', 'AddFusion', 'EraseFusion', 'Fusion']
