import inspect
from contextlib import nullcontext

import torch
from mmengine._strategy import FSDPStrategy as _FSDPStrategy
from mmengine.device import get_device
from mmengine.dist import broadcast, is_main_process
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from ...errors import UserError
from ...fileio import atomic_path
from ...models.backbones.vittm import ViTTMLayer
from ...registry import FUNCTIONS, STRATEGIES


def fsdp_runs_on_cpu() -> bool:
    """Return True if FSDP of this torch runs on the CPU; that of 2.1 does not."""
    return 'priority' in inspect.signature(torch.cpu.Stream).parameters


@FUNCTIONS.register_module()
def is_vittm_layer(module: nn.Module) -> bool:
    """Return True for a block of a ViTTM: ``activation_checkpointing.check_fn``."""
    return isinstance(module, ViTTMLayer)


@FUNCTIONS.register_module()
def wrap_vittm_layers(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """Wrap each block of a ViTTM as one FSDP unit, and the rest of the model as another: ``auto_wrap_policy``."""
    return recurse or is_vittm_layer(module)


@STRATEGIES.register_module()
class FSDPStrategy(_FSDPStrategy):
    """mmengine's FSDP (ZeRO-3), which clips by the norm of the full gradient and runs on the CPU too.

    mmengine clips each shard by the norm of that shard, and assigns a GPU to each process.

    Args:
        state_dict_cfg (str | dict): See mmengine's FSDPStrategy. Defaults to 'full', which one process can load.
        **kwargs: See mmengine's FSDPStrategy.

    Raises:
        UserError: On the CPU, if FSDP of this torch needs CUDA streams, as that of 2.1 does, and for a ViTTM with
            ``memory_chunk``.
    """

    def __init__(self, *, state_dict_cfg: str | dict = 'full', **kwargs) -> None:
        super().__init__(state_dict_cfg=state_dict_cfg, **kwargs)

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        if not torch.cuda.is_available():
            if not fsdp_runs_on_cpu():
                raise UserError(f'FSDP of torch {torch.__version__} needs GPUs: on the CPU, train without --launcher')
            self.model_wrapper = dict(self.model_wrapper or {}, device_id=torch.device(get_device()))
            model = revert_sync_batchnorm(model)
        if any(getattr(module, 'memory_chunk', None) for module in model.modules()):
            raise UserError('memory_chunk does not work with FSDP, which gathers whole blocks: leave one of them out')
        for value in model.state_dict().values():
            broadcast(value)  # as DDP does; FSDP's own sync_module_states needs GPUs
        return super()._wrap_model(self.convert_model(model))

    def build_optim_wrapper(self, optim_wrapper, model: nn.Module | None = None) -> OptimWrapper:
        """Build the optimizer of this process's shard."""
        wrapper = super().build_optim_wrapper(optim_wrapper, model)
        if getattr(wrapper, 'clip_func', None) is torch.nn.utils.clip_grad_norm_:
            wrapper.clip_func = lambda _, **kwargs: self.model.clip_grad_norm_(**kwargs)
        return wrapper

    def save_checkpoint(self, filename: str, **kwargs) -> None:
        """Save as mmengine does, but write a single-file checkpoint atomically."""
        one_file = self._is_full_state_dict() and is_main_process()
        with atomic_path(filename) if one_file else nullcontext(filename) as path:
            super().save_checkpoint(str(path), **kwargs)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Shard the optimizer state. mmengine passes the arguments in the order of torch 2.0."""
        shard = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=self.optim_wrapper.optimizer, optim_state_dict=state_dict
        )
        self.optim_wrapper.load_state_dict(shard)
