"""Fusions: how a stream takes an update in."""

from .add import AddFusion
from .base import Fusion

__all__ = ['AddFusion', 'Fusion']
