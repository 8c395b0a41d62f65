from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from ...errors import UserError
from ...registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class Bf16OptimWrapper(OptimWrapper):
    """Mixed precision in bfloat16 without loss scaling, on CPU and GPU.

    mmengine's AmpOptimWrapper needs a GPU for every dtype, so the tools use this wrapper on the CPU.

    Args:
        dtype (str): Must be 'bfloat16'.
        loss_scale: Ignored; accepted since AmpOptimWrapper takes it.
        **kwargs: See mmengine's OptimWrapper.

    Raises:
        UserError: If ``dtype`` is not bfloat16.
    """

    def __init__(self, dtype: str = 'bfloat16', loss_scale: float | str | dict | None = None, **kwargs: Any) -> None:
        if dtype != 'bfloat16':
            raise UserError(f"optim_wrapper.dtype is '{dtype}': on the CPU, use 'bfloat16' or train without AMP")
        super().__init__(**kwargs)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass of ``model`` under autocast."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield
