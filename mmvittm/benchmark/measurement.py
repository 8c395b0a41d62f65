"""Models from configs, timed in their run modes together with the GEMMs of their networks."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from mmengine.config import Config
from mmengine.utils import to_2tuple
from torch import Tensor, nn

from ..apis.config import build_model, input_size, load_config
from ..apis.tasks import inference_network
from ..errors import UserError, error_text
from ..weights import load_weights
from .complexity import Gemm, count_forward, count_parameters, count_work, gemm_run, largest
from .modes import BACKENDS, DTYPES, RunMode, training_step
from .profiling import peak_memory, time_stages
from .timing import Run, Timing, outliers, spread, time_interleaved, timer_on

_STAGE_PASSES = 12

GemmTimes = dict[tuple[str, Gemm], list[float]]  # milliseconds by round, by dtype and GEMM


@dataclass(frozen=True)
class Candidate:
    """A network with its images and its work; :meth:`in_mode` makes it ready to run."""

    config: str
    checkpoint: str | None
    network: nn.Module
    images: Tensor
    macs_per_image: float
    gemms: list[Gemm]  # the largest three
    mode: RunMode | None = None
    run: Run | None = None

    def in_mode(self, mode: RunMode) -> 'Candidate':
        """Prepare the network, or a copy that PyTorch may change, to run in ``mode``."""
        backend = BACKENDS[mode.backend]
        network = copy.deepcopy(self.network) if backend.in_pytorch else self.network
        return replace(self, network=network, mode=mode, run=backend.prepare(network, self.images, mode))


def build_candidate(
    config: str,
    checkpoint: str | None = None,
    cfg_options: dict | None = None,
    shape: Sequence[int] | None = None,
    whole_patches: bool = False,
    batch_size: int = 1,
    backbone_only: bool = False,
    memory_patch: int | None = None,
    device: str = 'cpu',
    train: bool = False,
) -> Candidate:
    """Build the network of a config and run it once, to count its work and to see that it takes its images.

    The arguments are the options of ``tools/fps_benchmark.py``. ``shape`` is height and width, or one side, and
    defaults to the config's test size. ``memory_patch`` overrides the memory patch size of a config that has one.

    Raises:
        UserError: If the config, the checkpoint or the size of the images does not fit.
    """
    cfg = load_config(config, cfg_options)
    backbone = (cfg.get('model') or {}).get('backbone', {})
    if memory_patch and 'patch_size' in backbone.get('memory_embed', {}):
        backbone.memory_embed.patch_size = memory_patch
    height, width = (shape[0], shape[-1]) if shape else input_size(cfg)
    if whole_patches:
        rows, columns = patch_sizes(cfg)
        if height < rows or width < columns:
            raise UserError(f'config {config} has patches of {rows}×{columns}: {height}×{width} holds none')
        height, width = height // rows * rows, width // columns * columns
    model = build_model(cfg)
    if checkpoint:
        load_weights(model, checkpoint)
    network = inference_network(model, backbone_only).to(device)
    images = torch.randn(batch_size, backbone.get('in_channels', 3), height, width, device=device)
    try:
        # a training step may change buffers, so it runs on a copy
        macs, gemms = (
            count_work(training_step(copy.deepcopy(network), images)) if train else count_forward(network, images)
        )
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = error_text(error)
        if 'Expected more than 1 value per channel' in reason:  # of BatchNorm, behind global pooling
            raise UserError(f'config {config} does not train on one image: use --batch-size 2 or more') from error
        raise UserError(f'config {config} does not run on images of {height}×{width}: {reason}') from error
    return Candidate(config, checkpoint, network, images, macs / batch_size, largest(gemms))


def patch_sizes(cfg: Config) -> tuple[int, int]:
    """Height and width of the smallest image that holds whole patches of every embedding of the backbone."""
    backbone = cfg.model.get('backbone', {})
    holders = (backbone, backbone.get('memory_embed', {}), backbone.get('process_embed', {}))
    sizes = [to_2tuple(holder['patch_size']) for holder in holders if 'patch_size' in holder]
    return tuple(math.lcm(*sides) for sides in zip((1, 1), *sizes, strict=True))


def measure(
    candidates: Sequence[Candidate], stages: bool = False, on_step: Callable = lambda text: None, **options
) -> dict:
    """Time candidates and the largest GEMMs of their networks in the same interleaved rounds.

    ``stages`` also times the stages of networks that run eagerly, ``on_step`` is called with the name of each step, and
    ``options`` go to :func:`~.timing.time_interleaved`.

    Returns:
        dict: ``rows``, one per candidate; ``ceilings``, the fastest GEMM of each dtype; ``gemms`` with all their times.
    """
    device = candidates[0].mode.device
    dtypes = dict.fromkeys(candidate.mode.dtype for candidate in candidates)
    shapes = sorted({gemm for candidate in candidates for gemm in candidate.gemms})
    gemms = [(dtype, gemm) for dtype in dtypes if has_fast_gemms(dtype, device) for gemm in shapes]
    runs = [candidate.run for candidate in candidates]
    runs += [gemm_run(gemm, DTYPES[dtype], device) for dtype, gemm in gemms]

    on_step('warming up')
    timing = time_interleaved(runs, judged=len(candidates), timer=timer_on(device), on_step=on_step, **options)
    gemm_times = dict(zip(gemms, timing.times[len(candidates) :], strict=True))
    on_step('profiling')
    ceilings = fastest(gemm_times)
    rows = [summarize(index, candidates, timing, gemm_times, ceilings) for index in range(len(candidates))]
    for row, candidate in zip(rows, candidates, strict=True):
        backend = BACKENDS[candidate.mode.backend]
        row['peak_memory'] = peak_memory(candidate.run, device) if backend.in_pytorch else None  # others keep arenas
        if stages and backend.is_eager:
            passes = min(_STAGE_PASSES, options.get('rounds') or _STAGE_PASSES)
            row['stages_ms'] = time_stages(candidate.network, candidate.run, passes, device)
    timed = [dict(dtype=dtype, gemm=gemm, times_ms=times) for (dtype, gemm), times in gemm_times.items()]
    return dict(rows=rows, ceilings=list(ceilings.values()), gemms=timed)


def has_fast_gemms(dtype: str, device: str) -> bool:
    """Return whether PyTorch multiplies in ``dtype`` at a rate that says something about the machine.

    It has no int8 here, and emulates bf16 and fp16 at a hundredth of the speed on CPUs without AVX-512.
    """
    emulated = device == 'cpu' and torch.backends.cpu.get_cpu_capability() in ('DEFAULT', 'NO AVX', 'AVX2')
    return dtype == 'fp32' or (DTYPES[dtype].is_floating_point and not emulated)


def summarize(
    index: int, candidates: Sequence[Candidate], timing: Timing, gemm_times: GemmTimes, ceilings: dict[str, dict]
) -> dict:
    """Make the results row of a candidate."""
    candidate, times = candidates[index], np.array(timing.times[index])
    mode, batch_size = candidate.mode, len(candidate.images)
    first_in_mode = next(i for i, other in enumerate(candidates) if other.mode == mode)
    time = spread(times)
    work = 2 * candidate.macs_per_image * batch_size / 1e6
    ceiling, own = ceilings.get(mode.dtype), own_rates(candidate, gemm_times)
    return dict(
        config=candidate.config,
        checkpoint=candidate.checkpoint,
        random_weights=candidate.checkpoint is None,
        measures=candidate.network.measures,
        mode=str(mode),
        backend=mode.backend,
        dtype=mode.dtype,
        shape=list(candidate.images.shape),
        parameters=count_parameters(candidate.network),
        macs_per_image=candidate.macs_per_image,
        time_ms=time,
        stopped_by=timing.stopped_by[index],
        rounds=len(times),
        warmup=timing.warmups[index],
        outliers=len(outliers(times)),
        slowest_ms=float(times.max()),
        fps=batch_size * 1e3 / time['median'],
        speed_ratio=spread(timing.times[0] / times),
        speed_ratio_same_mode=spread(timing.times[first_in_mode] / times),
        gflops=work / time['median'],
        ceiling=ceiling,
        share_of_ceiling=ceiling and work / time['median'] / ceiling['gflops'],
        gemms=candidate.gemms,
        gemms_gflops=None if own is None else spread(own),
        share_of_gemms=None if own is None else spread(work / times / own),
        times_ms=timing.times[index],
    )


def fastest(gemm_times: GemmTimes) -> dict[str, dict]:
    """The ceiling of the machine in each dtype: its fastest GEMM and the rate in GFLOP/s."""
    found = [
        dict(dtype=dtype, gemm=gemm, gflops=2 * math.prod(gemm) / float(np.median(times)) / 1e6)
        for (dtype, gemm), times in gemm_times.items()
    ]
    return {rate['dtype']: rate for rate in sorted(found, key=lambda rate: rate['gflops'])}  # the last one stays


def own_rates(candidate: Candidate, gemm_times: GemmTimes) -> np.ndarray | None:
    """GFLOP/s by round of the candidate's own largest GEMMs; None if there are none in its dtype.

    Small GEMMs run below peak and suffer most from other load, so a network is compared with GEMMs of its own shapes.
    """
    times = [gemm_times[key] for gemm in candidate.gemms if (key := (candidate.mode.dtype, gemm)) in gemm_times]
    return 2 * sum(map(math.prod, candidate.gemms)) / 1e6 / np.sum(times, axis=0) if times else None
