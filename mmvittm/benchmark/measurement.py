"""Timing candidates together with the GEMMs of their networks, and the results that follow."""

from collections.abc import Callable, Sequence

import numpy as np

from .candidates import Candidate
from .complexity import Gemm, count_parameters, gemm_run, multiply_adds
from .modes import BACKENDS, DTYPES
from .profiling import peak_memory, time_stages
from .timing import Timing, outliers, spread, time_interleaved, timer_on

_STAGE_PASSES = 12

GemmTimes = dict[tuple[str, Gemm], list[float]]  # milliseconds by round, by dtype and GEMM


def measure(
    candidates: Sequence[Candidate],
    stages: bool = False,
    on_step: Callable[[str], None] = lambda name: None,
    **options,
) -> dict:
    """Time candidates and the largest GEMMs of their networks in the same interleaved rounds.

    ``stages`` also times the stages of networks that run eagerly, ``on_step`` is called with the name of each step, and
    ``options`` go to :func:`~.timing.time_interleaved`.

    Returns:
        dict: ``rows``, one per candidate; ``orders`` of the rounds; ``ended_by``; ``ceilings``, the fastest GEMM of
        each dtype; ``gemms`` with all their times.
    """
    device = candidates[0].mode.device
    dtypes = [dtype for dtype in DTYPES if any(candidate.mode.dtype == dtype for candidate in candidates)]
    shapes = sorted({gemm for candidate in candidates for gemm in candidate.gemms})
    gemms = [(dtype, gemm) for dtype in dtypes for gemm in shapes]
    runs = [candidate.run for candidate in candidates]
    runs += [gemm_run(gemm, DTYPES[dtype], device) for dtype, gemm in gemms]

    on_step('timing')
    timing = time_interleaved(runs, judged=len(candidates), timer=timer_on(device), **options)
    gemm_times = dict(zip(gemms, timing.times[len(candidates) :], strict=True))
    rows = [summarize(index, candidates, timing, gemm_times) for index in range(len(candidates))]
    on_step('profiling')
    for row, candidate in zip(rows, candidates, strict=True):
        backend = BACKENDS[candidate.mode.backend]
        row['peak_memory'] = peak_memory(candidate.run, device) if backend.in_pytorch else None  # others keep arenas
        if stages and backend.is_eager:
            passes = min(_STAGE_PASSES, options.get('rounds') or _STAGE_PASSES)
            row['stages_ms'] = time_stages(candidate.network, candidate.run, passes, device)
    return dict(
        rows=rows,
        orders=timing.orders,
        ended_by=timing.ended_by,
        ceilings=list(fastest(gemm_times).values()),
        gemms=[dict(dtype=dtype, gemm=gemm, times_ms=times) for (dtype, gemm), times in gemm_times.items()],
    )


def fastest(gemm_times: GemmTimes) -> dict[str, dict]:
    """The ceiling of the machine in each dtype: its fastest GEMM and the rate in GFLOP/s."""
    rates = [
        dict(dtype=dtype, gemm=gemm, gflops=2 * multiply_adds(gemm) / float(np.median(times)) / 1e6)
        for (dtype, gemm), times in gemm_times.items()
    ]
    return {rate['dtype']: rate for rate in sorted(rates, key=lambda rate: rate['gflops'])}  # the last one stays


def own_rates(candidate: Candidate, gemm_times: GemmTimes) -> np.ndarray | None:
    """GFLOP/s by round of the candidate's own largest GEMMs; None if there are none in its dtype.

    Small GEMMs run below peak and suffer most from other load, so a network is compared with GEMMs of its own shapes.
    """
    times = [gemm_times[key] for gemm in candidate.gemms if (key := (candidate.mode.dtype, gemm)) in gemm_times]
    return 2 * sum(map(multiply_adds, candidate.gemms)) / 1e6 / np.sum(times, axis=0) if times else None


def summarize(index: int, candidates: Sequence[Candidate], timing: Timing, gemm_times: GemmTimes) -> dict:
    """Make the results row of a candidate."""
    candidate = candidates[index]
    mode, images = candidate.mode, candidate.images
    first_in_mode = next(i for i, other in enumerate(candidates) if other.mode == mode)
    times = np.array(timing.times[index])
    time = spread(times)
    work = 2 * candidate.macs_per_image * len(images) / 1e6
    ceiling = fastest(gemm_times).get(mode.dtype)
    own = own_rates(candidate, gemm_times)
    return dict(
        config=candidate.config,
        checkpoint=candidate.checkpoint,
        random_weights=candidate.checkpoint is None,
        measures=candidate.network.measures,
        mode=str(mode),
        backend=mode.backend,
        dtype=mode.dtype,
        shape=list(images.shape),
        parameters=count_parameters(candidate.network),
        macs_per_image=candidate.macs_per_image,
        time_ms=time,
        stopped_by=timing.stopped_by[index],
        rounds=len(times),
        warmup=timing.warmups[index],
        outliers=len(outliers(times)),
        slowest_ms=float(times.max()),
        fps=len(images) * 1e3 / time['median'],
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
