import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """Two linear layers with GELU between them, under the authors' names (mmcv's ``FFN`` has others).

    Args:
        in_dims (int): Width of the input.
        hidden_dims (int): Width in between.
        out_dims (int): Width of the output.
    """

    def __init__(self, in_dims: int, hidden_dims: int, out_dims: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_dims, hidden_dims)
        self.fc2 = nn.Linear(hidden_dims, out_dims)

    def forward(self, x: Tensor) -> Tensor:
        """``(…, in_dims)`` -> ``(…, out_dims)``."""
        return self.fc2(F.gelu(self.fc1(x)))
