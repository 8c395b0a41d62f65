from abc import abstractmethod

from mmengine.model import BaseModule
from torch import Tensor


class Fusion(BaseModule):
    """What a fusion is: ``fusion(target, update) -> target``. One serves all reads of a model, one all writes.

    A fusion whose constructor names ``embed_dims`` or ``target_tokens`` is given these numbers; ``target_name`` tells
    it which stream it serves, for its errors.

    Attributes:
        uses_target (bool): Whether the result depends on the target as it was.
    """

    uses_target = True

    @abstractmethod
    def forward(self, target: Tensor, update: Tensor) -> Tensor:
        """``(B, M, C)``, ``(B, M, C)`` -> ``(B, M, C)``."""
