"""One measurement: contenders and the machine's ceiling in the same interleaved rounds, and what follows from them."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from .backends import BACKENDS, DTYPES, Way
from .ceiling import Product, multiply_adds, product_run
from .contender import Contender, Setup, build_subject, contenders_of
from .parts import time_parts
from .statistics import Spread, outliers, speed_ratios
from .timing import TIMERS, Limits, Timing, time_interleaved

_PARTS_PASSES = 12

#: Milliseconds by round of each dense product, in each dtype.
ProductTimes = dict[tuple[str, Product], list[float]]


@dataclass(frozen=True)
class Ceiling:
    """The fastest dense matrix product of the run in a dtype."""

    dtype: str
    product: Product  # (M, K, N)
    gflops: float


@dataclass
class Measurement:
    """Contenders that were timed against each other."""

    contenders: list[Contender]
    timing: Timing
    product_times: ProductTimes
    rows: list[dict]

    def as_dict(self) -> dict:
        """What belongs to all contenders alike; the rows are their own."""
        return dict(
            orders=self.timing.orders,
            ended_by=self.timing.ended_by,
            ceilings=[asdict(ceiling) for ceiling in highest_rates(self.product_times).values()],
            products=[
                dict(dtype=dtype, product=product, times_ms=times)
                for (dtype, product), times in self.product_times.items()
            ],
        )


def measure(
    setups: Sequence[Setup],
    ways: Sequence[Way],
    limits: Limits,
    seed: int = 0,
    parts: bool = False,
    on_round: Callable[[float, list[list[float]]], None] = lambda seconds, times: None,
    on_step: Callable[[str], None] = lambda description: None,
) -> Measurement:
    """Time every setup in every way.

    Args:
        setups (Sequence[Setup]): What to run; ratios are to the first.
        ways (Sequence[Way]): How to run it; device and training are those of the first.
        limits (Limits): When to end.
        seed (int): Of the order within the rounds. Defaults to 0.
        parts (bool): Time the parts of what PyTorch runs operator by operator, too. Defaults to False.
        on_round (Callable): As in :func:`~.timing.time_interleaved`.
        on_step (Callable): Called with a word for what begins.

    Raises:
        UserError: If a setup cannot be built or run.
    """
    device, train = ways[0].device, ways[0].train
    on_step('building')
    subjects = [build_subject(setup, device, train) for setup in setups]
    contenders = list(contenders_of(subjects, ways))

    shapes = sorted({product for subject in subjects for product in subject.products})
    products = [(dtype, shape) for dtype in dict.fromkeys(way.dtype for way in ways) for shape in shapes]
    runs = [contender.run for contender in contenders]
    runs += [product_run(shape, DTYPES[dtype], device) for dtype, shape in products]

    on_step('timing')
    timing = time_interleaved(runs, limits, seed, len(contenders), TIMERS[device], on_round=on_round)
    product_times = dict(zip(products, timing.times[len(contenders) :], strict=True))
    rows = [summarize(index, contenders, timing, product_times, limits) for index in range(len(contenders))]

    on_step('memory')
    for row, contender in zip(rows, contenders, strict=True):
        row['peak_memory'] = contender.peak_memory()
    if parts:
        on_step('parts')
        for row, contender in zip(rows, contenders, strict=True):
            if BACKENDS[contender.way.backend].runs_modules:
                passes = min(_PARTS_PASSES, limits.rounds or _PARTS_PASSES)
                row['parts_ms'] = time_parts(contender.network, contender.run, passes, device)
    return Measurement(contenders, timing, product_times, rows)


def highest_rates(product_times: ProductTimes) -> dict[str, Ceiling]:
    """The ceiling of each dtype."""
    rates = [
        Ceiling(dtype, shape, 2 * multiply_adds(shape) / Spread.of(times).median / 1e6)
        for (dtype, shape), times in product_times.items()
    ]
    return {rate.dtype: rate for rate in sorted(rates, key=lambda rate: rate.gflops)}  # the last, highest one stays


def own_rates(contender: Contender, product_times: ProductTimes) -> list[float]:
    """GFLOP/s, round by round, of the largest dense products that the contender's own network consists of.

    Few tokens make products of few rows, which no machine runs at its ceiling, and which suffer the most from what
    else its memory is used for. So this is the yardstick that a network's time moves with.
    """
    products = contender.subject.products
    work = 2 * sum(map(multiply_adds, products)) / 1e6
    rounds = zip(*(product_times[contender.way.dtype, product] for product in products), strict=True)
    return [work / sum(times) for times in rounds]


def summarize(
    index: int, contenders: Sequence[Contender], timing: Timing, product_times: ProductTimes, limits: Limits
) -> dict:
    """One row of the results, as it goes to JSON."""
    contender, times = contenders[index], timing.times[index]
    subject, way = contender.subject, contender.way
    peer = next(i for i, other in enumerate(contenders) if other.way == way)  # the first config, run the same way
    time = Spread.of(times)
    work = 2 * subject.macs_per_image * len(subject.images) / 1e6
    gflops = work / time.median
    ceiling = highest_rates(product_times).get(way.dtype)
    own = own_rates(contender, product_times)
    # a network without dense products has no such yardstick
    shares = [work / elapsed / rate for elapsed, rate in zip(times, own, strict=True)] if own else []
    return dict(
        config=subject.setup.config,
        checkpoint=subject.setup.checkpoint,
        random_weights=subject.setup.checkpoint is None,
        measures=subject.network.measures,
        way=str(way),
        backend=way.backend,
        dtype=way.dtype,
        shape=list(subject.images.shape),
        parameters=subject.parameters,
        macs_per_image=subject.macs_per_image,
        time_ms=asdict(time),
        precision=time.precision,
        stopped_by=timing.stopped_by(index, limits.precision),
        rounds=len(times),
        warmup=timing.warmups[index],
        outliers=len(outliers(times)),
        slowest_ms=max(times),
        fps=len(subject.images) * 1e3 / time.median,
        speed_ratio=asdict(Spread.of(speed_ratios(timing.times[0], times))),
        speed_ratio_same_way=asdict(Spread.of(speed_ratios(timing.times[peer], times))),
        gflops=gflops,
        share_of_ceiling=gflops / ceiling.gflops if ceiling else None,
        products=subject.products,
        products_gflops=asdict(Spread.of(own)) if own else None,
        share_of_products=asdict(Spread.of(shares)) if shares else None,
        times_ms=times,
    )
