"""Token embeddings: how an image, or the other stream, becomes tokens."""

from .learned_tokens import LearnedTokens
from .patch_tokens import PatchTokens
from .pooled_tokens import PooledTokens

__all__ = ['LearnedTokens', 'PatchTokens', 'PooledTokens']
