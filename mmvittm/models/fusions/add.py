from torch import Tensor

from ...registry import FUSIONS
from .base import Fusion


@FUSIONS.register_module()
class AddFusion(Fusion):
    """``target + update``, the fusion of every published model (ViTTM paper)."""

    def forward(self, target: Tensor, update: Tensor) -> Tensor:
        """``(B, M, C)``, ``(B, M, C)`` -> ``(B, M, C)``."""
        return target + update
