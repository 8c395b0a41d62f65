"""Timing networks against each other, and telling what they were timed on."""

import platform
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmpretrain.models import BaseClassifier
from mmseg.models import EncoderDecoder
from mmseg.models.segmentors import CascadeEncoderDecoder
from torch import Tensor, nn

from ..errors import UserError

# --- what is timed ---------------------------------------------------------------------------------------------------


class SegmentorNetwork(nn.Module):
    """A segmentor from the normalised images `(B, 3, H, W)` to the logits `(B, K, h, w)` its decode head computes.

    Takes ``model`` over: its auxiliary heads, which inference does not run, are removed.
    """

    measures = 'backbone, neck and decode head on the whole image, without the final upsampling of the logits'

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        if isinstance(model, CascadeEncoderDecoder):
            raise UserError('a CascadeEncoderDecoder has several decode heads: only its backbone can be timed')
        if model.with_auxiliary_head:
            del model.auxiliary_head
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.decode_head.forward(self.model.extract_feat(images))


class ClassifierNetwork(nn.Module):
    """A classifier from the normalised images `(B, 3, H, W)` to what its head gives in mode ``'tensor'``."""

    measures = 'backbone, neck and head on the whole image'

    def __init__(self, model: BaseClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.forward(images, mode='tensor')


class BackboneNetwork(nn.Module):
    """The backbone alone, from the normalised images `(B, 3, H, W)` to its feature maps."""

    measures = 'the backbone alone on the whole image'

    def __init__(self, model: BaseModel) -> None:
        super().__init__()
        self.backbone = model.backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.backbone(images)


# The network of each kind of model; a new kind is a new row.
NETWORKS: dict[type[nn.Module], type[nn.Module]] = {
    EncoderDecoder: SegmentorNetwork,
    BaseClassifier: ClassifierNetwork,
}


def inference_network(model: nn.Module, backbone_only: bool = False) -> nn.Module:
    """The part of ``model`` that inference runs, as a module from one image tensor to raw outputs, in eval mode.

    Its parameters are those that inference uses; it has an attribute ``measures`` that says what it spans. SyncBN
    becomes BN, which computes the same in eval mode and runs without a GPU too.

    Raises:
        UserError: If ``model`` is neither an mmseg ``EncoderDecoder`` nor an mmpretrain classifier, or has no backbone
            where that is asked for.
    """
    kind = next((network for base, network in NETWORKS.items() if isinstance(model, base)), None)
    if kind is None:
        known = ', '.join(base.__name__ for base in NETWORKS)
        raise UserError(f'a {type(model).__name__} cannot be timed: the model must be one of {known}')
    if backbone_only and not isinstance(getattr(model, 'backbone', None), nn.Module):
        raise UserError(f'a {type(model).__name__} has no backbone to be timed alone')
    network = revert_sync_batchnorm(BackboneNetwork(model) if backbone_only else kind(model))
    network.eval()  # not chained: mmpretrain's backbones return None here
    return network


def eager(network: nn.Module, images: Tensor) -> Callable[[], object]:
    """A forward pass as PyTorch runs it, operator by operator, without gradients."""

    def run() -> object:
        with torch.inference_mode():
            return network(images)

    return run


# --- timing ----------------------------------------------------------------------------------------------------------


def time_on_cpu(run: Callable[[], object]) -> float:
    """Milliseconds ``run`` takes by the clock on the wall."""
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def time_on_cuda(run: Callable[[], object]) -> float:
    """Milliseconds between two events around ``run`` on the GPU's own clock."""
    # Written without a GPU at hand and never run on one.
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


TIMERS: dict[str, Callable[[Callable[[], object]], float]] = {'cpu': time_on_cpu, 'cuda': time_on_cuda}


def round_orders(num_runs: int, rounds: int, seed: int = 0) -> Iterator[list[int]]:
    """The order of the runs in each round: shuffled, and every second round the reverse of the one before.

    So in each pair of rounds everyone precedes everyone else once, and nobody always follows the same neighbour.
    """
    rng = random.Random(seed)
    order: list[int] = []
    for index in range(rounds):
        order = order[::-1] if index % 2 else rng.sample(range(num_runs), num_runs)
        yield order


def time_interleaved(
    runs: Sequence[Callable[[], object]],
    orders: Sequence[Sequence[int]],
    warmup: int = 3,
    timer: Callable[[Callable[[], object]], float] = time_on_cpu,
    on_run: Callable[[], None] = lambda: None,
) -> list[list[float]]:
    """Time every run once a round, so that a busy moment of the machine hits them all.

    Args:
        runs (Sequence[Callable]): What to time.
        orders (Sequence[Sequence[int]]): For each round, the indices of ``runs`` in their order.
        warmup (int): Untimed calls of each run before the first round. Defaults to 3.
        timer (Callable): Gives the milliseconds of one call. Defaults to :func:`time_on_cpu`.
        on_run (Callable): Called after each run, warm-up included, e.g. to move a progress bar.

    Returns:
        list[list[float]]: Milliseconds, by run and round.
    """
    for run in runs:
        for _ in range(warmup):
            timer(run)
            on_run()
    times: list[list[float]] = [[] for _ in runs]
    for order in orders:
        for index in order:
            times[index].append(timer(runs[index]))
            on_run()
    return times


# --- statistics ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """The middle of a sample and the range that holds 80 % of it."""

    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, sample: Sequence[float]) -> 'Spread':
        p10, median, p90 = np.percentile(sample, (10, 50, 90))
        return cls(float(median), float(p10), float(p90))


def speed_ratios(reference: Sequence[float], times: Sequence[float]) -> list[float]:
    """How many times faster than ``reference`` each round was: the rounds are paired, so each has its own ratio."""
    return [base / own for base, own in zip(reference, times, strict=True)]


# --- the machine -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """What a time depends on besides the network."""

    device: str
    cpu: str
    gpu: str | None
    threads: int
    versions: dict[str, str]

    @classmethod
    def current(cls, device: str) -> 'Machine':
        """Describe this process; ``device`` is ``'cpu'`` or ``'cuda'``."""
        packages = ('torch', 'mmengine', 'mmcv', 'mmseg', 'mmpretrain', 'mmvittm')
        versions = {name: import_module(name).__version__ for name in packages}
        return cls(
            device=device,
            cpu=cpu_name(),
            gpu=torch.cuda.get_device_name() if device == 'cuda' else None,
            threads=torch.get_num_threads(),
            versions=versions | {'python': platform.python_version()},
        )

    def as_dict(self) -> dict:
        return asdict(self)


def cpu_name(cpuinfo: Path = Path('/proc/cpuinfo')) -> str:
    """The processor's name as Linux knows it, elsewhere what :mod:`platform` says."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()
