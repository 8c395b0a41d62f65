import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """Linear, GELU, linear; the parameters have the authors' names, which mmcv's ``FFN`` does not.

    Args:
        in_dims (int): Width of the input.
        hidden_dims (int): Hidden width.
        out_dims (int): Width of the output.
    """

    def __init__(self, in_dims: int, hidden_dims: int, out_dims: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_dims, hidden_dims)
        self.fc2 = nn.Linear(hidden_dims, out_dims)

    def forward(self, x: Tensor) -> Tensor:
        """``(…, in_dims)`` -> ``(…, out_dims)``."""
        return self.fc2(F.gelu(self.fc1(x)))
