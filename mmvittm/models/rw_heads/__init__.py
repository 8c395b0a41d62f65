"""Read/write heads: bring information from the tokens of one stream to those of the other."""

from .base import RWHead
from .cross_attention import CrossAttention
from .dyna_mixer import DynaMixer
from .focused_linear_attention import FocusedLinearAttention
from .latent_attention import LatentAttention
from .latent_cross_attention import LatentCrossAttention
from .linear_attention import LinearAttention
from .token_learner import TokenLearner

__all__ = [
    'CrossAttention',
    'DynaMixer',
    'FocusedLinearAttention',
    'LatentAttention',
    'LatentCrossAttention',
    'LinearAttention',
    'RWHead',
    'TokenLearner',
]
