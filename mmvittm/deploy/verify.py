"""Comparison of an exported network with the network in PyTorch."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..apis.tasks import TASKS
from ..errors import UserError
from .base import Session
from .metadata import ExportMetadata

#: Largest errors and smallest agreement for each dtype. bf16 is not judged on noise, where rounding costs more since
#: models are not trained on it. int8 is not judged: its cost depends on the calibration.
TOLERANCES = dict(
    fp32=dict(noise_error=1e-4, image_error=1e-4),
    bf16=dict(image_error=2e-2, agreement=0.995),
    int8=dict(),
)


class Verification(NamedTuple):
    """Largest difference relative to the largest output, on noise and on images, and the share of equal classes."""

    noise_error: float
    image_error: float
    agreement: float

    def __str__(self) -> str:
        return (
            f'relative error {self.noise_error:.2g} on noise and {self.image_error:.2g} on images, '
            f'same class at {self.agreement:.2%}'
        )


def verify(
    network: nn.Module, session: Session, metadata: ExportMetadata, images: np.ndarray, dtype: str
) -> Verification:
    """Compare ``session`` with ``network`` on noise and on images, in batches of two, one and the rest.

    Args:
        network (nn.Module): The exported network, in eval mode.
        session (Session): The export.
        metadata (ExportMetadata): The export's metadata.
        images (np.ndarray): At least two images ``(B, 3, H, W)``, as :func:`.images.prepare` makes them.
        dtype (str): Data type of the export, a key of :data:`TOLERANCES`.

    Raises:
        UserError: If the export exceeds a tolerance. The agreement is not judged for random weights: their logits are
            so close to each other that rounding decides.
    """
    task = TASKS[metadata.task]
    noise = np.random.default_rng(0).standard_normal((2, 3, *metadata.shape), np.float32)
    errors, same = [], []
    for batch in (noise, images[:1], images[1:]):
        with torch.inference_mode():
            expected = outputs_of(network, torch.from_numpy(batch))
        got = session(batch)
        errors.append(max(relative_error(*pair) for pair in zip(got, expected, strict=True)))
        ours, theirs = (
            task.classes_of(task.decode(outputs, metadata, metadata.shape, metadata.shape))
            for outputs in (got, expected)
        )
        same.append((ours == theirs).ravel())
    measured = Verification(errors[0], max(errors[1:]), float(np.concatenate(same[1:]).mean()))
    if problem := _problem(measured, TOLERANCES[dtype], trained=metadata.checkpoint is not None):
        raise UserError(f'the exported model differs from the original: {measured}, but {problem}')
    return measured


def _problem(measured: Verification, tolerances: dict[str, float], trained: bool) -> str | None:
    if not np.isfinite(measured[:2]).all():
        return 'all outputs must be finite'
    for name in ('noise_error', 'image_error'):
        if getattr(measured, name) > tolerances.get(name, np.inf):
            return f'at most {tolerances[name]:g} is allowed'
    if trained and measured.agreement < tolerances.get('agreement', 0):
        return f'at least {tolerances["agreement"]:.1%} must be the same'
    return None


def outputs_of(network: nn.Module, images: Tensor) -> list[np.ndarray]:
    """Return the outputs of ``network`` as a session does."""
    outputs = network(images)
    return [output.numpy() for output in ((outputs,) if isinstance(outputs, Tensor) else outputs)]


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference relative to the largest expected value, infinity if a value is not finite."""
    if got.shape != expected.shape or not np.isfinite(got).all():
        return float('inf')
    return float(np.abs(got - expected).max() / np.abs(expected).max())
