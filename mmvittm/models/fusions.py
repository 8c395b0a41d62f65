"""Fusions: how the tokens of a stream take up an update."""

from abc import abstractmethod

from mmengine.model import BaseModule
from torch import Tensor, nn

from ..registry import FUSIONS
from .builder import check_tokens, positive_int


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


@FUSIONS.register_module()
class AddFusion(Fusion):
    """``target + update``, the fusion of every published model (ViTTM paper)."""

    def forward(self, target: Tensor, update: Tensor) -> Tensor:
        """``(B, M, C)``, ``(B, M, C)`` -> ``(B, M, C)``."""
        return target + update


@FUSIONS.register_module()
class EraseFusion(Fusion):
    """``update``, in place of the target (ViTTM paper)."""

    uses_target = False

    def forward(self, target: Tensor, update: Tensor) -> Tensor:
        """``(B, M, C)``, ``(B, M, C)`` -> ``(B, M, C)``."""
        return update


@FUSIONS.register_module()
class AddEraseFusion(Fusion):
    r"""A learned gate between target and update, one for each target token (ViTTM paper).

    .. math:: (1 - g)\,\mathrm{target} + g\,\mathrm{update},\quad
              g = \mathrm{sigmoid}(\mathrm{Linear}(\mathrm{mean}_{tokens}(\mathrm{update})))

    Args:
        embed_dims (int): C, the width of the tokens.
        target_tokens (int): M, the number of target tokens.
        target_name (str): What errors call the target tokens. Defaults to 'target'.

    Raises:
        UserError: If ``forward`` gets another number of target tokens.
    """

    def __init__(self, embed_dims: int, target_tokens: int, target_name: str = 'target') -> None:
        # timm's initialisation of a ViT, which the authors keep
        super().__init__(init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0))
        self.target_tokens = positive_int('target_tokens', target_tokens)
        self.target_name = target_name
        self.linear = nn.Linear(embed_dims, target_tokens)

    def forward(self, target: Tensor, update: Tensor) -> Tensor:
        """``(B, M, C)``, ``(B, M, C)`` -> ``(B, M, C)``."""
        check_tokens(self, self.target_name, self.target_tokens, target)
        gate = self.linear(update.mean(1)).sigmoid().unsqueeze(2)
        return (1 - gate) * target + gate * update
