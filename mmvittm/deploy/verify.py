"""Comparing an exported network with the one it was made from."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UserError
from .base import Session
from .metadata import ModelCard
from .tasks import Task


@dataclass(frozen=True)
class Tolerance:
    """How far an export may be from eager PyTorch in fp32; None is any distance.

    Attributes:
        noise_error (float, optional): Largest difference of an output, relative to the largest output, on noise.
        image_error (float, optional): The same on images.
        agreement (float, optional): Least share of pixels, or images, with the same class.
    """

    noise_error: float | None = None
    image_error: float | None = None
    agreement: float | None = None


#: By dtype. Rounding to bf16 costs more on noise, far from what a model has learned, so images alone are judged there.
#: What int8 costs depends on the calibration: it is measured, not judged.
TOLERANCES = dict(
    fp32=Tolerance(noise_error=1e-4, image_error=1e-4),
    bf16=Tolerance(image_error=2e-2, agreement=0.995),
    int8=Tolerance(),
)


@dataclass(frozen=True)
class Verification:
    """Relative errors on noise and on images, and how often the chosen class on images is the same."""

    noise_error: float
    image_error: float
    agreement: float

    def __str__(self) -> str:
        return (
            f'relative error {self.noise_error:.2g} on noise and {self.image_error:.2g} on images, '
            f'same class at {self.agreement:.2%}'
        )


def verify(
    network: nn.Module,
    session: Session,
    task: Task,
    card: ModelCard,
    images: np.ndarray,
    dtype: str,
    on_batch: Callable[[], None] = lambda: None,
) -> Verification:
    """Compare ``session`` with ``network`` on noise and on real images, in batches of two, of one and of the rest.

    Args:
        network (nn.Module): What was exported, in eval mode.
        session (Session): The export.
        task (Task): The model's.
        card (ModelCard): The model's.
        images (np.ndarray): Real images ``(B, 3, H, W)``, as :func:`.preprocess.prepare` makes them; two at least.
        dtype (str): What the export computes in, a key of :data:`TOLERANCES`.
        on_batch (Callable): Called after each of the three batches.

    Raises:
        UserError: If the export is further off than its dtype explains. Of random weights the classes are not
            judged: their logits lie so close together that rounding decides.
    """
    noise = np.random.default_rng(0).standard_normal((2, 3, *card.shape), np.float32)
    errors, same = [], []
    for batch in (noise, images[:1], images[1:]):
        with torch.inference_mode():
            expected = outputs_of(network, torch.from_numpy(batch))
        got = session(batch)
        errors.append(max(relative_error(*pair) for pair in zip(got, expected, strict=True)))
        same.append(task.choices(got[0], card) == task.choices(expected[0], card))
        on_batch()
    agreement = float(np.concatenate([choices.ravel() for choices in same[1:]]).mean())
    measured = Verification(errors[0], max(errors[1:]), agreement)
    if problem := _problem(measured, TOLERANCES[dtype], trained=card.checkpoint is not None):
        raise UserError(f'the exported model is not the same as the original: {measured}, but {problem}')
    return measured


def _problem(measured: Verification, tolerance: Tolerance, trained: bool) -> str | None:
    if not np.isfinite((measured.noise_error, measured.image_error)).all():
        return 'all outputs must be finite'
    for kind in ('noise', 'image'):
        most = getattr(tolerance, f'{kind}_error')
        if most is not None and getattr(measured, f'{kind}_error') > most:
            return f'at most {most:g} is allowed'
    if trained and tolerance.agreement is not None and measured.agreement < tolerance.agreement:
        return f'at least {tolerance.agreement:.1%} must be the same'
    return None


def outputs_of(network: nn.Module, images: Tensor) -> list[np.ndarray]:
    """What ``network`` gives for ``images``, one tensor or several, as a session would give it."""
    outputs = network(images)
    return [output.numpy() for output in ((outputs,) if isinstance(outputs, Tensor) else outputs)]


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference relative to the largest expected value; infinite if something is not finite."""
    if got.shape != expected.shape or not np.isfinite(got).all():
        return float('inf')
    return float(np.abs(got - expected).max() / np.abs(expected).max())
