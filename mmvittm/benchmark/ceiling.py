"""The machine's ceiling: how fast it multiplies dense matrices of the shapes that a network multiplies."""

from collections import Counter
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .timing import Run

Product = tuple[int, int, int]  # (M, K, N): (M × K) · (K × N)

_OPERATORS = {torch.ops.aten.mm: 0, torch.ops.aten.addmm: 1}  # -> the place of the left factor among the arguments


class MatrixProducts(TorchDispatchMode):
    """Counts the two-dimensional matrix products that run within it, by shape."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> object:
        place = _OPERATORS.get(func.overloadpacket)
        if place is not None:
            left, right = args[place : place + 2]
            self.counts[(*left.shape, right.shape[1])] += 1
        return func(*args, **(kwargs or {}))

    def largest(self, number: int = 3) -> list[Product]:
        """The shapes that hold most of the work."""
        work = {shape: count * multiply_adds(shape) for shape, count in self.counts.items()}
        return sorted(work, key=work.get, reverse=True)[:number]


def multiply_adds(product: Product) -> int:
    rows, inner, columns = product
    return rows * inner * columns


def product_run(product: Product, dtype: torch.dtype, device: str = 'cpu') -> Run:
    """The product, as a linear layer computes it."""
    rows, inner, columns = product
    left, weight = (torch.randn(side, inner, dtype=dtype, device=device) for side in (rows, columns))

    def run() -> Tensor:
        with torch.inference_mode():
            return F.linear(left, weight)

    return run
