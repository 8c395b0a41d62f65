from collections.abc import Callable
from functools import partial

from mmpretrain.engine import LearningRateDecayOptimWrapperConstructor
from torch import nn

from ...errors import UserError
from ...registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(LearningRateDecayOptimWrapperConstructor):
    """mmpretrain's layer-wise learning rate decay for any model with a ``backbone``, so for segmentors too.

    The learning rate of a parameter is multiplied by ``layer_decay_rate`` once per layer between it and the head. The
    backbone's ``get_layer_depth`` gives the layer of a parameter. The options are those of mmpretrain's
    ``paramwise_cfg``.

    Raises:
        UserError: If the backbone has no ``get_layer_depth``, or there is no ``paramwise_cfg``.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        if not paramwise_cfg:
            raise UserError(
                'layer-wise decay needs optim_wrapper.paramwise_cfg, for example dict(layer_decay_rate=0.75)'
            )
        super().__init__(optim_wrapper_cfg, paramwise_cfg)

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = '',
        get_layer_depth: Callable[[str], tuple[int, int]] | None = None,
        **kwargs,
    ) -> None:
        """Add the parameters of ``module`` to the parameter groups ``params``."""
        if get_layer_depth is None:
            backbone = getattr(module, 'backbone', None)
            if not hasattr(backbone, 'get_layer_depth'):
                raise UserError(
                    f'layer-wise decay needs a backbone with get_layer_depth, but {type(backbone).__name__} of '
                    f'{type(module).__name__} has none: choose another optim_wrapper.constructor'
                )
            get_layer_depth = partial(backbone.get_layer_depth, prefix='backbone.')
        super().add_params(params, module, prefix, get_layer_depth, **kwargs)
