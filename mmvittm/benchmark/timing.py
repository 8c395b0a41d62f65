"""Interleaved timing, every run once per round, until the medians are precise; and the statistics of the times."""

import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

Run = Callable[[], object]
Timer = Callable[[Run], float]

LEVEL = 95  # confidence of every interval, %
MIN_ROUNDS = 10  # the bootstrap of fewer times says little about the median
_RESAMPLES = 1000
_SETTLED = 0.03  # warm-up ends after two passes in a row that improve on the best time by less than this share


def median_interval(sample: Sequence[float]) -> tuple[float, float]:
    """Confidence interval of the median at :data:`LEVEL` %, by the seeded percentile bootstrap (Efron 1979)."""
    values = np.asarray(sample, dtype=float)
    draws = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(np.median(values[draws], axis=1), (tail, 100 - tail))
    return float(low), float(high)


def spread(sample: Sequence[float]) -> dict[str, float]:
    """Summarise a sample.

    Returns:
        dict: ``median``; percentiles ``p10`` and ``p90``; ``low`` and ``high``, the confidence interval of the median;
        ``precision``, half the width of that interval relative to the median.
    """
    p10, median, p90 = map(float, np.percentile(sample, (10, 50, 90)))
    low, high = median_interval(sample)
    return dict(median=median, p10=p10, p90=p90, low=low, high=high, precision=(high - low) / 2 / median)


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


def round_orders(num_runs: int, rounds: int | None = None, seed: int = 0) -> Iterator[list[int]]:
    """Yield a shuffled order of the runs per round, every second one the reverse of the one before.

    In each pair of rounds every run precedes every other once. Endless if ``rounds`` is None.
    """
    rng = random.Random(seed)
    order: list[int] = []
    for index in itertools.count() if rounds is None else range(rounds):
        order = order[::-1] if index % 2 else rng.sample(range(num_runs), num_runs)
        yield order


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
    """Result of :func:`time_interleaved`."""

    times: list[list[float]]  # milliseconds by run and round
    orders: list[list[int]]  # of the runs in each round
    warmups: list[int]  # untimed passes by run
    ended_by: str  # 'precision', 'max time' or 'rounds'
    stopped_by: list[str]  # by run: 'precision' if its own median is precise, else `ended_by`


def is_precise(times: Sequence[float], precision: float) -> bool:
    return len(times) >= MIN_ROUNDS and spread(times)['precision'] <= precision


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
    on_round: Callable[[float, list[list[float]]], None] = lambda seconds, times: None,
) -> Timing:
    """Time all runs in the same rounds, so that a disturbance of the machine hits them alike.

    Rounds stop when the interval of each median has a half width of ``precision`` (relative), after ``max_time``
    seconds (warm-up not counted) or after ``rounds``. Only the first ``judged`` runs must be precise; None judges all.
    ``on_round`` is called after each round with the seconds passed and the times so far.
    """
    timer = timer or timer_on()
    warmups = [warm_up(run, warmup, timer) for run in runs]
    times: list[list[float]] = [[] for _ in runs]
    orders: list[list[int]] = []
    start, ended_by = clock(), 'rounds'
    for order in round_orders(len(runs), rounds, seed):
        for index in order:
            times[index].append(timer(runs[index]))
        orders.append(order)
        seconds = clock() - start
        on_round(seconds, times)
        balanced = len(orders) % 2 == 0  # orders come in pairs
        if balanced and all(is_precise(own, precision) for own in times[:judged]):
            ended_by = 'precision'
            break
        if seconds >= max_time:
            ended_by = 'max time'
            break
    stopped_by = ['precision' if is_precise(own, precision) else ended_by for own in times]
    return Timing(times, orders, warmups, ended_by, stopped_by)
