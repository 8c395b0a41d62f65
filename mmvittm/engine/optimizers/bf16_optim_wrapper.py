from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from ...errors import UserError
from ...registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class Bf16OptimWrapper(OptimWrapper):
    """Mixed precision in bfloat16, which needs no loss scaling and so runs on the CPU too.

    mmengine's AmpOptimWrapper refuses to run without a GPU, whatever the dtype; on the CPU this takes its place.

    Args:
        dtype (str): 'bfloat16', nothing else.
        loss_scale: What AmpOptimWrapper would scale the loss by; bfloat16 has the range of float32 and is not scaled.
        **kwargs: As OptimWrapper's.

    Raises:
        UserError: If ``dtype`` is another one.
    """

    def __init__(self, dtype: str = 'bfloat16', loss_scale: float | str | dict | None = None, **kwargs) -> None:
        if dtype != 'bfloat16':
            raise UserError(f"optim_wrapper.dtype is '{dtype}': the CPU trains in bfloat16 or without AMP only")
        super().__init__(**kwargs)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass of ``model`` under autocast."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield
