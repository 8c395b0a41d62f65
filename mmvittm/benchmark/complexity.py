"""Counting parameters, multiply-adds and GEMMs."""

import math
from collections import Counter
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

Gemm = tuple[int, int, int]  # (M, K, N): (M × K) · (K × N), M · K · N multiply-adds


def count_parameters(module: nn.Module) -> int:
    """Number of parameters without buffers; a shared parameter counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_forward(model: Callable[[Tensor], object], inputs: Tensor) -> tuple[float, Counter[Gemm]]:
    """Count the work of ``model(inputs)`` in eval mode, as :func:`count_work` does; for the whole batch."""
    # Without gradients nn.MultiheadAttention and nn.TransformerEncoderLayer run as one fused operator, which the
    # counter cannot see into. The hooks keep autograd from saving tensors for a backward pass.
    with saved_tensors_hooks(lambda tensor: None, lambda packed: None):
        return count_work(lambda: model(inputs.clone().requires_grad_()))


def count_work(step: Callable[[], object]) -> tuple[float, Counter[Gemm]]:
    """Count the work of ``step()``: matrix products, convolutions and attention, backward passes included.

    Returns:
        tuple[float, Counter]: Multiply-adds (half the floating-point operations), and two-dimensional matrix products
        by shape.
    """
    gemms: Counter[Gemm] = Counter()

    def gemm_flops(left: tuple[int, int], right: tuple[int, int], *_, **__) -> int:
        gemm = (*left, right[1])
        gemms[gemm] += 1
        return 2 * math.prod(gemm)

    formulas = {
        'mm': gemm_flops,
        'addmm': lambda bias, left, right, *_, **__: gemm_flops(left, right),
        # the CPU's fused attention, an operator of its own since torch 2.2, which torch does not count
        '_scaled_dot_product_flash_attention_for_cpu': lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        '_scaled_dot_product_flash_attention_for_cpu_backward': (
            lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
        ),
    }
    aten = torch.ops.aten
    counter = FlopCounterMode(
        display=False,
        custom_mapping={getattr(aten, name): own for name, own in formulas.items() if hasattr(aten, name)},
    )
    with torch.inference_mode(False), torch.enable_grad(), counter:
        step()
    return counter.get_total_flops() / 2, gemms


def largest(gemms: Counter[Gemm], number: int = 3) -> list[Gemm]:
    """Shapes that hold most of the work."""
    return sorted(gemms, key=lambda gemm: gemms[gemm] * math.prod(gemm), reverse=True)[:number]


def gemm_run(gemm: Gemm, dtype: torch.dtype, device: str = 'cpu') -> Callable[[], Tensor]:
    """Make a function that runs one GEMM on random matrices, as a linear layer does."""
    rows, inner, columns = gemm
    left, weight = (torch.randn(side, inner, dtype=dtype, device=device) for side in (rows, columns))
    return torch.inference_mode()(lambda: F.linear(left, weight))
