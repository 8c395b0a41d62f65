from .bf16_optim_wrapper import Bf16OptimWrapper
from .layer_decay import LayerDecayOptimWrapperConstructor

__all__ = [
    'Bf16OptimWrapper',
    'LayerDecayOptimWrapperConstructor',
]
