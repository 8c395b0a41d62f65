"""Timing several things against each other: interleaved rounds until their medians are known well enough."""

import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from .statistics import Spread

Run = Callable[[], object]
Timer = Callable[[Run], float]

# The bootstrap of fewer times says little about the median.
MIN_ROUNDS = 10
# A pass counts as settled when it is at most this much faster than the best one before it, twice in a row.
_SETTLED = 0.03


def time_on_cpu(run: Run) -> float:
    """Milliseconds ``run`` takes by the clock on the wall."""
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def time_on_cuda(run: Run) -> float:
    """Milliseconds between two events around ``run`` on the GPU's own clock."""
    # Written without a GPU at hand and never run on one.
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


TIMERS: dict[str, Timer] = {'cpu': time_on_cpu, 'cuda': time_on_cuda}


def round_orders(num_runs: int, rounds: int | None = None, seed: int = 0) -> Iterator[list[int]]:
    """The order of the runs in each round: shuffled, and every second round the reverse of the one before.

    So in each pair of rounds everyone precedes everyone else once, and nobody always follows the same neighbour.
    Without ``rounds`` they never end.
    """
    rng = random.Random(seed)
    order: list[int] = []
    for index in itertools.count() if rounds is None else range(rounds):
        order = order[::-1] if index % 2 else rng.sample(range(num_runs), num_runs)
        yield order


@dataclass(frozen=True)
class Limits:
    """When timing ends: all medians known to ``precision``, ``max_time`` over, or ``rounds`` done.

    Args:
        precision (float): Wanted half width of each median's interval of confidence, relative to the median.
        max_time (float): Seconds after which no further round begins; warm-up is not counted.
        rounds (int, optional): Most rounds.
        warmup (int): Most untimed passes of each run before the first round.
    """

    precision: float = 0.02
    max_time: float = 60.0
    rounds: int | None = None
    warmup: int = 20


@dataclass(frozen=True)
class Timing:
    """Milliseconds by run and round, the order within each round, untimed passes by run, and why it ended."""

    times: list[list[float]]
    orders: list[list[int]]
    warmups: list[int]
    ended_by: str  # 'precision', 'max time' or 'rounds'

    def stopped_by(self, index: int, precision: float) -> str:
        """Of one run: 'precision' if its own median got there, else what ended the rounds."""
        return 'precision' if is_precise(self.times[index], precision) else self.ended_by


def is_precise(times: Sequence[float], precision: float) -> bool:
    """Whether there are enough ``times`` and their median's interval of confidence is narrow enough."""
    return len(times) >= MIN_ROUNDS and Spread.of(times).precision <= precision


def warm_up(run: Run, most: int, timer: Timer = time_on_cpu) -> int:
    """Call ``run`` until it no longer gets faster, at most ``most`` times.

    Returns:
        int: How often it was called.
    """
    best, settled = float('inf'), 0
    for count in range(1, most + 1):
        elapsed = timer(run)
        settled = settled + 1 if elapsed > best * (1 - _SETTLED) else 0
        best = min(best, elapsed)
        if settled == 2:
            return count
    return most


def time_interleaved(
    runs: Sequence[Run],
    limits: Limits = Limits(),
    seed: int = 0,
    judged: int | None = None,
    timer: Timer = time_on_cpu,
    clock: Callable[[], float] = time.monotonic,
    on_round: Callable[[float, list[list[float]]], None] = lambda seconds, times: None,
) -> Timing:
    """Time every run once a round, so that a busy moment of the machine hits them all.

    Nobody leaves before the end, so that the rounds stay comparable pair by pair.

    Args:
        runs (Sequence[Callable]): What to time.
        limits (Limits): When to end.
        seed (int): Of the order within the rounds. Defaults to 0.
        judged (int, optional): How many of the runs, from the first, must get precise. Defaults to all.
        timer (Callable): Gives the milliseconds of one call. Defaults to :func:`time_on_cpu`.
        clock (Callable): Seconds, for ``max_time``.
        on_round (Callable): Called after each round with the seconds passed and the times so far.
    """
    warmups = [warm_up(run, limits.warmup, timer) for run in runs]
    times: list[list[float]] = [[] for _ in runs]
    orders: list[list[int]] = []
    start = clock()
    ended_by = 'rounds'
    for order in round_orders(len(runs), limits.rounds, seed):
        for index in order:
            times[index].append(timer(runs[index]))
        orders.append(order)
        seconds = clock() - start
        on_round(seconds, times)
        balanced = len(orders) % 2 == 0  # the orders come in pairs
        if balanced and all(is_precise(own, limits.precision) for own in times[:judged]):
            ended_by = 'precision'
            break
        if seconds >= limits.max_time:
            ended_by = 'max time'
            break
    return Timing(times, orders, warmups, ended_by)
