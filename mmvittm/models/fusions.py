"""Fusions: combine the tokens of a stream with the update that a read or write brings."""

from abc import abstractmethod

from mmengine.model import BaseModule
from torch import Tensor, nn

from ..registry import FUSIONS
from .builder import positive_int


class Fusion(BaseModule):
    """Base class: ``fusion(target, update) -> target``.

    A model has one fusion for all reads and one for all writes. The constructor of a fusion is passed ``embed_dims``
    and ``target_tokens`` if it names them.

    Attributes:
        fixed_tokens (bool): Whether it is built for a fixed number of tokens. The backbone then refuses other input
            sizes.
        per_token (bool): True if it treats each token by itself, as memory in chunks and scenes need. Not inherited: a
            subclass says so itself.
    """

    fixed_tokens = False

    @abstractmethod
    def forward(self, target: Tensor, update: Tensor) -> Tensor:
        """``(B, M, C)``, ``(B, M, C)`` -> ``(B, M, C)``."""


@FUSIONS.register_module()
class AddFusion(Fusion):
    """``target + update``: the fusion of every published model (ViTTM paper)."""

    per_token = True

    def forward(self, target: Tensor, update: Tensor) -> Tensor:
        """``(B, M, C)``, ``(B, M, C)`` -> ``(B, M, C)``."""
        return target + update


@FUSIONS.register_module()
class EraseFusion(Fusion):
    """``update`` replaces the target (ViTTM paper)."""

    per_token = True

    def forward(self, target: Tensor, update: Tensor) -> Tensor:
        """``(B, M, C)``, ``(B, M, C)`` -> ``(B, M, C)``."""
        return update


@FUSIONS.register_module()
class AddEraseFusion(Fusion):
    r"""Mix target and update with one learned gate per target token (ViTTM paper).

    .. math:: (1 - g)\,\mathrm{target} + g\,\mathrm{update},\quad
              g = \mathrm{sigmoid}(\mathrm{Linear}(\mathrm{mean}_{tokens}(\mathrm{update})))

    Args:
        embed_dims (int): Width C of the tokens.
        target_tokens (int): Number M of target tokens.
    """

    fixed_tokens = True

    def __init__(self, embed_dims: int, target_tokens: int) -> None:
        # the initialisation of timm's ViT, as in the authors' code
        super().__init__(init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0))
        self.linear = nn.Linear(embed_dims, positive_int('target_tokens', target_tokens))

    def forward(self, target: Tensor, update: Tensor) -> Tensor:
        """``(B, M, C)``, ``(B, M, C)`` -> ``(B, M, C)``."""
        gate = self.linear(update.mean(1)).sigmoid().unsqueeze(2)
        return (1 - gate) * target + gate * update
