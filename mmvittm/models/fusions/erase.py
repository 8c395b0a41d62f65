from torch import Tensor

from ...registry import FUSIONS
from .base import Fusion


@FUSIONS.register_module()
class EraseFusion(Fusion):
    """``update``, in place of the target (ViTTM paper)."""

    uses_target = False

    def forward(self, target: Tensor, update: Tensor) -> Tensor:
        """``(B, M, C)``, ``(B, M, C)`` -> ``(B, M, C)``."""
        return update
