"""Counting the weights of a network and the work of a forward pass."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode


def count_macs(model: Callable[[Tensor], object], inputs: Tensor) -> float:
    """Count the multiply-adds of ``model(inputs)``: matrix products, convolutions and attention, nothing elementwise.

    The model runs once, on the device it is on.

    Args:
        model (Callable): A module in eval mode or any function of one tensor.
        inputs (Tensor): Its input, e.g. `(B, 3, H, W)`; the count is for the whole batch.

    Returns:
        float: Multiply-adds (half the floating-point operations).
    """
    counter = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
    # Gradients are on because without them nn.MultiheadAttention and nn.TransformerEncoderLayer run as one fused
    # operator that the counter cannot see into; nothing autograd would keep for a backward pass is kept.
    drop_saved = saved_tensors_hooks(lambda tensor: None, lambda packed: None)
    with torch.inference_mode(False), torch.enable_grad(), drop_saved, counter:
        model(inputs.clone().requires_grad_())
    return counter.get_total_flops() / 2


def count_parameters(module: nn.Module) -> int:
    """The number of weights, buffers left out; a weight used in two places counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_, **__) -> int:
    """Two products: `(B, h, M, d) × (B, h, d, N)` for the scores, `(B, h, M, N) × (B, h, N, e)` for the values."""
    batch, heads, num_queries, dims = query
    num_keys, value_dims = value[-2:]
    return 2 * batch * heads * num_queries * num_keys * (dims + value_dims)


# torch counts the fused attention of CUDA only; the CPU's has an operator of its own since torch 2.2.
_cpu_attention = getattr(torch.ops.aten, '_scaled_dot_product_flash_attention_for_cpu', None)
_CPU_ATTENTION = {_cpu_attention: _attention_flops} if _cpu_attention else {}
