from .fusions import AddFusion
from .rw_heads import LinearAttention
from .token_embeds import PatchTokens
from .vittm import ViTTM

__all__ = ['AddFusion', 'LinearAttention', 'PatchTokens', 'ViTTM']
