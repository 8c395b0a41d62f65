from torch import Tensor, nn

from ...registry import FUSIONS
from ..build import check_tokens, positive_int
from .base import Fusion


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
