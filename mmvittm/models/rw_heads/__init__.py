"""Read/write heads: how one stream's tokens are brought to the other's."""

from .base import RWHead
from .cross_attention import CrossAttention
from .dyna_mixer import DynaMixer
from .latent_attention import LatentAttention
from .latent_cross_attention import LatentCrossAttention
from .linear_attention import LinearAttention
from .token_learner import TokenLearner

__all__ = [
    'CrossAttention',
    'DynaMixer',
    'LatentAttention',
    'LatentCrossAttention',
    'LinearAttention',
    'RWHead',
    'TokenLearner',
]
