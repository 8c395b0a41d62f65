from math import inf

import torch.nn.functional as F
from torch import Tensor

from ...errors import UserError
from ...registry import RW_HEADS
from .base import at_least_fp32
from .linear_attention import LinearAttention


@RW_HEADS.register_module()
class FocusedLinearAttention(LinearAttention):
    r"""Linear attention with features that point more sharply (FLatten Transformer, Han et al. 2023).

    .. math:: \phi_p(x) = \lVert x_+ \rVert\, \frac{x_+^p}{\lVert x_+^p \rVert},\quad
              x_+ = \mathrm{ReLU}(x) + 10^{-6}

    in place of :math:`\mathrm{elu} + 1`, per token and attention head, with an elementwise power. The features keep
    their norm and turn towards their largest entries, so that a query weights its sources less evenly. The parameters
    are those of :class:`LinearAttention`. Not in the ViTTM paper; follows the focused function of
    `FLatten Transformer <https://arxiv.org/abs/2308.00442>`_, without its convolution of the values.

    Args:
        embed_dims (int): Width C of the tokens.
        num_heads (int): Number of attention heads.
        latent_ratio (int): ``embed_dims`` divided by the width of queries and keys. Defaults to 1, since about half of
            the features of a token are near zero.
        focusing_factor (float): The power p, 1 or more. Defaults to 3, as in the FLatten paper.
        init_cfg (dict, optional): Initialisation, see :class:`RWHead`.

    Raises:
        UserError: If ``focusing_factor`` is below 1 or infinite.
    """

    per_token = True

    eps = 0.0  # the features are positive, and may all be small

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        latent_ratio: int = 1,
        focusing_factor: float = 3,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(embed_dims, num_heads, latent_ratio, init_cfg)
        if not isinstance(focusing_factor, (int, float)) or not 1 <= focusing_factor < inf:
            raise UserError(f'focusing_factor must be a number of 1 or more, not {focusing_factor!r}')
        self.focusing_factor = focusing_factor

    def features(self, x: Tensor) -> Tensor:
        """Return positive features of projected tokens ``(B, N, L)``, of the same shape and in fp32 at least."""
        x = (F.relu(at_least_fp32(x)) + 1e-6).unflatten(-1, (self.num_heads, -1))
        # relative to the largest entry, since powers of small numbers underflow
        focused = (x / x.amax(dim=-1, keepdim=True)) ** self.focusing_factor
        return (focused * (x.norm(dim=-1, keepdim=True) / focused.norm(dim=-1, keepdim=True))).flatten(-2)
