from collections.abc import Callable
from functools import partial

from mmpretrain.engine import LearningRateDecayOptimWrapperConstructor
from torch import nn

from ...errors import UserError
from ...registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(LearningRateDecayOptimWrapperConstructor):
    """mmpretrain's layer-wise learning rates, for any model with a ``backbone``: segmentors as well as classifiers.

    A parameter learns at the base rate times ``layer_decay_rate`` for each depth between it and the head, where the
    backbone's ``get_layer_depth`` says how deep it lies. The settings are mmpretrain's ``paramwise_cfg``.

    Raises:
        UserError: If the backbone cannot tell depths, or without a ``paramwise_cfg``; mmengine then decays nothing.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        if not paramwise_cfg:
            raise UserError(
                'layer-wise decay has no settings: give optim_wrapper.paramwise_cfg, e.g. dict(layer_decay_rate=0.75)'
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
        """Add the parameters of ``module`` to the optimizer's groups ``params``."""
        if get_layer_depth is None:
            backbone = getattr(module, 'backbone', None)
            if not hasattr(backbone, 'get_layer_depth'):
                raise UserError(
                    f'layer-wise decay needs a backbone with get_layer_depth, which {type(backbone).__name__} of '
                    f'{type(module).__name__} lacks: choose another optim_wrapper.constructor'
                )
            get_layer_depth = partial(backbone.get_layer_depth, prefix='backbone.')
        super().add_params(params, module, prefix, get_layer_depth, **kwargs)
