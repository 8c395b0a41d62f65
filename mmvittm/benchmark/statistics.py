"""What a sample of times says, and how sure it is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 95  # % of confidence of every interval given
_RESAMPLES = 1000


def median_interval(sample: Sequence[float]) -> tuple[float, float]:
    """The interval that holds the median of what ``sample`` was drawn from, by the bootstrap (Efron 1979).

    The percentile interval at :data:`LEVEL` % of the medians of resamples; the resampling is seeded, so the same
    sample gives the same interval.
    """
    values = np.asarray(sample, dtype=float)
    draws = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(np.median(values[draws], axis=1), (tail, 100 - tail))
    return float(low), float(high)


@dataclass(frozen=True)
class Spread:
    """The middle of a sample, the range that holds 80 % of it, and the interval of confidence of the middle."""

    median: float
    p10: float
    p90: float
    low: float
    high: float

    @classmethod
    def of(cls, sample: Sequence[float]) -> 'Spread':
        p10, median, p90 = np.percentile(sample, (10, 50, 90))
        return cls(float(median), float(p10), float(p90), *median_interval(sample))

    @property
    def precision(self) -> float:
        """Half the width of the interval of confidence, relative to the median."""
        return (self.high - self.low) / 2 / self.median


def speed_ratios(reference: Sequence[float], times: Sequence[float]) -> list[float]:
    """How many times faster than ``reference`` each round was: the rounds are paired, so each has its own ratio."""
    return [base / own for base, own in zip(reference, times, strict=True)]


def outliers(times: Sequence[float]) -> list[float]:
    """The times above Tukey's fence, 1.5 interquartile ranges over the upper quartile. They stay in every number."""
    lower, upper = np.percentile(times, (25, 75))
    return [time for time in times if time > upper + 1.5 * (upper - lower)]


def growth_exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The exponent `e` of the power law `value ∝ size^e` that fits best: the slope of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])
