from ..model_index import register_names
from .backbones.vittm import ViTTM
from .fusions import AddEraseFusion, AddFusion, EraseFusion
from .heads import PixelShuffleHead, ViTTMClsHead
from .memory_blocks import MemoryBlock, MemoryConvNeXt, MemoryMLP
from .rw_heads import (
    CrossAttention,
    DynaMixer,
    FocusedLinearAttention,
    LatentAttention,
    LatentCrossAttention,
    LinearAttention,
    TokenLearner,
)
from .stream_tta import AverageStreamScoreTTA
from .token_embeds import LearnedTokens, PatchTokens, PooledCells, PooledTokens

__all__ = [
    'AddEraseFusion',
    'AddFusion',
    'AverageStreamScoreTTA',
    'CrossAttention',
    'DynaMixer',
    'EraseFusion',
    'FocusedLinearAttention',
    'LatentAttention',
    'LatentCrossAttention',
    'LearnedTokens',
    'LinearAttention',
    'MemoryBlock',
    'MemoryConvNeXt',
    'MemoryMLP',
    'PatchTokens',
    'PixelShuffleHead',
    'PooledCells',
    'PooledTokens',
    'TokenLearner',
    'ViTTM',
    'ViTTMClsHead',
]

register_names()
