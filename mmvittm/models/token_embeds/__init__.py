"""Stream embeddings: how an image, or the other stream, becomes tokens."""

from .patch_tokens import PatchTokens

__all__ = ['PatchTokens']
