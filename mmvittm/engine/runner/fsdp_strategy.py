import inspect
from contextlib import nullcontext

import torch
from mmengine._strategy import FSDPStrategy as _FSDPStrategy
from mmengine.device import get_device
from mmengine.dist import broadcast, is_main_process
from mmengine.optim import OptimWrapper
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from ...errors import UserError
from ...fileio import atomic_path
from ...models.backbones.vittm import ViTTMLayer
from ...registry import FUNCTIONS, STRATEGIES


def fsdp_runs_on_cpu() -> bool:
    """Whether this torch lets FSDP treat CPU streams like CUDA's; 2.1 does not."""
    return 'priority' in inspect.signature(torch.cpu.Stream).parameters


@FUNCTIONS.register_module()
def is_vittm_layer(module: nn.Module) -> bool:
    """Whether ``module`` is one block of a ViTTM, for ``activation_checkpointing.check_fn``."""
    return isinstance(module, ViTTMLayer)


@FUNCTIONS.register_module()
def wrap_vittm_layers(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """``auto_wrap_policy`` that makes every block of a ViTTM a unit of its own; the rest of the model is one unit."""
    return recurse or is_vittm_layer(module)


@STRATEGIES.register_module()
class FSDPStrategy(_FSDPStrategy):
    """mmengine's FSDP (ZeRO-3), which also runs on the CPU and clips by the norm of the whole gradient.

    mmengine's own clips every process's share by the norm of that share and names a GPU to every process.

    Args:
        state_dict_cfg (str | dict): As mmengine's. Defaults to 'full', a checkpoint that one process can load.
        **kwargs: As mmengine's.

    Raises:
        UserError: On the CPU under a torch whose FSDP asks for CUDA streams, such as 2.1.
    """

    def __init__(self, *, state_dict_cfg: str | dict = 'full', **kwargs) -> None:
        super().__init__(state_dict_cfg=state_dict_cfg, **kwargs)

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        if not torch.cuda.is_available():
            if not fsdp_runs_on_cpu():
                raise UserError(f'FSDP of torch {torch.__version__} needs GPUs: on the CPU leave --launcher out')
            self.model_wrapper = dict(self.model_wrapper or {}, device_id=torch.device(get_device()))
        for value in model.state_dict().values():
            broadcast(value)  # as DDP does; FSDP's own sync_module_states needs GPUs
        return super()._wrap_model(self.convert_model(model))

    def build_optim_wrapper(self, optim_wrapper, model: nn.Module | None = None) -> OptimWrapper:
        """Build the optimizer of this process's share."""
        wrapper = super().build_optim_wrapper(optim_wrapper, model)
        if getattr(wrapper, 'clip_func', None) is torch.nn.utils.clip_grad_norm_:
            wrapper.clip_func = lambda _, **kwargs: self.model.clip_grad_norm_(**kwargs)
        return wrapper

    def save_checkpoint(self, filename: str, **kwargs) -> None:
        """Save as mmengine does; a checkpoint in one file is there whole or not at all."""
        one_file = self._is_full_state_dict() and is_main_process()
        with atomic_path(filename) if one_file else nullcontext(filename) as path:
            super().save_checkpoint(str(path), **kwargs)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Share out the optimizer's state; mmengine gives torch the arguments in the order of torch 2.0."""
        share = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=self.optim_wrapper.optimizer, optim_state_dict=state_dict
        )
        self.optim_wrapper.load_state_dict(share)
