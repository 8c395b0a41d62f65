"""Interleaved timing, every run once per round, until the medians are precise; and the statistics of the times."""

import itertools
import random
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import binom

Run = Callable[[], object]
Timer = Callable[[Run], float]

LEVEL = 95  # confidence of every interval, %
MIN_ROUNDS = 10  # fewer times say little about the median
_SETTLED = 0.03  # warm-up ends after two passes in a row that improve on the best time by less than this share


def spread(sample: Sequence[float]) -> dict[str, float]:
    """Summarise a sample.

    Returns:
        dict: ``median``; percentiles ``p10`` and ``p90``; ``low`` and ``high``, the confidence interval of the median
        at :data:`LEVEL` %, two of the sorted values by their binomial ranks, or of fewer than six values their range;
        ``precision``, half the width of that interval relative to the median.
    """
    values = np.sort(np.asarray(sample, dtype=float))
    p10, median, p90 = map(float, np.percentile(values, (10, 50, 90)))
    rank = max(1, int(binom.ppf((100 - LEVEL) / 200, len(values), 0.5)))
    low, high = float(values[rank - 1]), float(values[-rank])
    return dict(median=median, p10=p10, p90=p90, low=low, high=high, precision=(high - low) / 2 / median)


def is_precise(times: Sequence[float], precision: float) -> bool:
    return len(times) >= MIN_ROUNDS and spread(times)['precision'] <= precision


def outliers(times: Sequence[float]) -> list[float]:
    """Times above Tukey's upper fence, 1.5 interquartile ranges over the upper quartile."""
    lower, upper = np.percentile(times, (25, 75))
    return [time for time in times if time > upper + 1.5 * (upper - lower)]


def growth_exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Exponent `e` of the power law `value ∝ size^e` fitted to the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def timer_on(device: str = 'cpu') -> Timer:
    """Make a timer that gives the milliseconds of one call; on a GPU it waits for the kernels."""
    synchronize = torch.cuda.synchronize if device == 'cuda' else lambda: None

    def timer(run: Run) -> float:
        synchronize()
        start = time.perf_counter()
        run()
        synchronize()
        return (time.perf_counter() - start) * 1e3

    return timer


def warm_up(run: Run, limit: int, timer: Timer) -> int:
    """Call ``run`` until it stops getting faster, at most ``limit`` times; return the number of calls."""
    best, settled = float('inf'), 0
    for count in range(1, limit + 1):
        elapsed = timer(run)
        settled = settled + 1 if elapsed > best * (1 - _SETTLED) else 0
        best = min(best, elapsed)
        if settled == 2:
            return count
    return limit


class Timing(NamedTuple):
    """Result of :func:`time_interleaved`, by run."""

    times: list[list[float]]  # milliseconds, by round
    warmups: list[int]  # untimed passes
    stopped_by: list[str]  # 'precision' if the median is precise, else what ended the rounds: 'max time' or 'rounds'


def time_interleaved(
    runs: Sequence[Run],
    precision: float = 0.02,
    max_time: float = 60.0,
    rounds: int | None = None,
    warmup: int = 20,
    seed: int = 0,
    judged: int | None = None,
    timer: Timer | None = None,
    clock: Callable[[], float] = time.monotonic,
    on_step: Callable[[str], None] = lambda text: None,
) -> Timing:
    """Time all runs in the same rounds, so that a disturbance of the machine hits them alike.

    The order is shuffled for every other round and reversed for the round after it, so that in each pair of rounds
    every run precedes every other once. Rounds stop when the interval of each median has a half width of ``precision``
    (relative), after ``max_time`` seconds (warm-up not counted) or after ``rounds``. Only the first ``judged`` runs
    must be precise; None judges all. ``on_step`` is called with a text after each round.
    """
    timer = timer or timer_on()
    warmups = [warm_up(run, warmup, timer) for run in runs]
    times: list[list[float]] = [[] for _ in runs]
    rng, start, ended_by = random.Random(seed), clock(), 'rounds'
    order: list[int] = []
    for done in itertools.count(1) if rounds is None else range(1, rounds + 1):
        order = rng.sample(range(len(runs)), len(runs)) if done % 2 else order[::-1]
        for index in order:
            times[index].append(timer(runs[index]))
        seconds = clock() - start
        on_step(f'round {done}, {seconds:.0f} s')
        if done % 2 == 0 and all(is_precise(own, precision) for own in times[:judged]):
            ended_by = 'precision'
            break
        if seconds >= max_time:
            ended_by = 'max time'
            break
    return Timing(times, warmups, ['precision' if is_precise(own, precision) else ended_by for own in times])
