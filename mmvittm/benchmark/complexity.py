"""Counting the weights of a network and the work of a forward pass."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode


def count_macs(model: Callable[[Tensor], object], inputs: Tensor, *modes: AbstractContextManager) -> float:
    """Count the multiply-adds of ``model(inputs)``: matrix products, convolutions and attention, nothing elementwise.

    The model runs once, on the device it is on.

    Args:
        model (Callable): A module in eval mode or any function of one tensor.
        inputs (Tensor): Its input, e.g. `(B, 3, H, W)`; the count is for the whole batch.
        *modes (AbstractContextManager): Other observers of the same pass, e.g. a ``TorchDispatchMode``.

    Returns:
        float: Multiply-adds (half the floating-point operations).
    """
    # Gradients are on because without them nn.MultiheadAttention and nn.TransformerEncoderLayer run as one fused
    # operator that the counter cannot see into; nothing autograd would keep for a backward pass is kept.
    drop_saved = saved_tensors_hooks(lambda tensor: None, lambda packed: None)
    with drop_saved:
        return count_step_macs(lambda: model(inputs.clone().requires_grad_()), *modes)


def count_step_macs(step: Callable[[], object], *modes: AbstractContextManager) -> float:
    """Count the multiply-adds of ``step()``, backward passes included; see :func:`count_macs`."""
    counter = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
    with ExitStack() as stack:
        for context in (torch.inference_mode(False), torch.enable_grad(), counter, *modes):
            stack.enter_context(context)
        step()
    return counter.get_total_flops() / 2


def count_parameters(module: nn.Module) -> int:
    """The number of weights, buffers left out; a weight used in two places counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_, **__) -> int:
    """Two products: `(B, h, M, d) × (B, h, d, N)` for the scores, `(B, h, M, N) × (B, h, N, e)` for the values."""
    batch, heads, num_queries, dims = query
    num_keys, value_dims = value[-2:]
    return 2 * batch * heads * num_queries * num_keys * (dims + value_dims)


def _attention_backward_flops(grad_out: torch.Size, query: torch.Size, key: torch.Size, value: torch.Size, *_, **__):
    """The scores again, and the gradients of scores, query and key of width d, of weights and values of width e."""
    batch, heads, num_queries, dims = query
    num_keys, value_dims = value[-2:]
    return 2 * batch * heads * num_queries * num_keys * (3 * dims + 2 * value_dims)


# torch counts the fused attention of CUDA only; the CPU's has operators of its own since torch 2.2.
_CPU_ATTENTION = {
    getattr(torch.ops.aten, name): flops
    for name, flops in (
        ('_scaled_dot_product_flash_attention_for_cpu', _attention_flops),
        ('_scaled_dot_product_flash_attention_for_cpu_backward', _attention_backward_flops),
    )
    if hasattr(torch.ops.aten, name)
}
