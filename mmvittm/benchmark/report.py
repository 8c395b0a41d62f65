"""Tables, CSV and plots of results, from a frame with a row per result, see :func:`to_frame`."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..fileio import atomic_path
from .profiling import STAGES
from .timing import LEVEL, growth_exponent

_SAME = 'speed_ratio_same_mode'
_MODE, _BATCH = {'run mode': '{mode}'}, {'batch': '{batch} × {height}×{width}'}
#: Columns of the tables: header -> template over a row of :func:`displayed`.
SPEED = {
    **_MODE,
    'weights': '{weights}',
    **_BATCH,
    'params (M)': '{mega_parameters:.2f}',
    'GMACs/\nimage': '{gmacs:.4g}',
    'ms/batch': '{time_ms.median:.2f} ±{time_ms.precision:.1%}',
    'FPS': '{fps:.2f}',
    'speed, first = 1': '{speed_ratio.median:.3g} [{speed_ratio.low:.3g}–{speed_ratio.high:.3g}]',
    'first in mode = 1': f'{{{_SAME}.median:.3g}} [{{{_SAME}.low:.3g}}–{{{_SAME}.high:.3g}}]',
    'of\nceiling': '{share_of_ceiling:.0%}',
    'of own GEMMs': '{share_of_gemms.median:.0%} ±{share_of_gemms.precision:.1%} of {gemms_gflops.median:.0f}',
    'memory\n(MB)': '{mb:.0f}',
    'rounds': '{rounds}, {outliers} slow',
    'stopped by': '{stopped_by}',
}
BY_STAGE = {**_MODE, **_BATCH, **{stage: f'{{stages_ms.{stage}:.2f}} ({{shares.{stage}:.0%}})' for stage in STAGES}}
GROWTH = {**_MODE, 'latency': '{latency:.3f}', 'multiply-adds': '{macs:.3f}'}
_LEGEND = f"""± and brackets: {LEVEL} % confidence interval of the median, or the range of fewer than six rounds
speed: ratio of FPS, round by round; of ceiling: share of the rate of the fastest GEMM of the run
of own GEMMs: share of the rate (GFLOP/s) of the network's three largest GEMMs, timed in the same rounds, which hardly
changes with the load of the machine; slow: outliers above Tukey's fence, included in all numbers"""


def to_frame(results: Sequence[dict]) -> pd.DataFrame:
    """Make a frame of results rows: ``time_ms.median`` for inner dicts, the shape as three numbers, no other lists."""
    frame = pd.json_normalize(results)
    frame[['batch', 'channels', 'height', 'width']] = frame['shape'].tolist()
    if 'ceiling.gemm' in frame:
        frame['ceiling.gemm'] = frame['ceiling.gemm'].map(lambda gemm: '×'.join(map(str, gemm)), na_action='ignore')
    return frame.drop(columns=['shape', 'channels', 'gemms', 'times_ms'])


def displayed(frame: pd.DataFrame) -> pd.DataFrame:
    """Add what the tables show in other units: ``mega_parameters``, ``gmacs``, ``mb``, ``weights``, ``shares.…``."""
    stages = frame[[name for name in frame if name.startswith('stages_ms.')]]
    shares = stages.div(stages.sum(axis=1), axis=0).rename(columns=lambda name: name.replace('stages_ms', 'shares'))
    return frame.join(shares).assign(
        weights=[Path(path).name if isinstance(path, str) else 'random' for path in frame['checkpoint']],
        mega_parameters=frame['parameters'] / 1e6,
        gmacs=frame['macs_per_image'] / 1e9,
        mb=frame['peak_memory'].astype(float) / 1e6,
    )


def fill(template: str, row: pd.Series) -> str:
    """Fill in a template such as ``'{time_ms.median:.2f}'``; a dash if a value is missing."""
    try:
        # str.format would read a dot in a name as an attribute
        return re.sub(r'{([^:}]+)', '{0[\\1]', template).format(row.dropna())
    except KeyError:
        return '–'


def cells(frame: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """Fill in the templates of ``columns``; a column without any value is left out."""
    rows = [[fill(template, row) for template in columns.values()] for _, row in frame.iterrows()]
    texts = pd.DataFrame(rows, columns=list(columns), index=frame.index)
    return texts.loc[:, (texts != '–').any()]


def show_table(console: Console, frame: pd.DataFrame, columns: dict[str, str], **options) -> None:
    """Print a table with the configs by number."""
    texts = cells(frame, columns)
    texts.insert(0, 'config', [str(number + 1) for number in pd.factorize(frame['config'])[0]])
    table = Table(box=SIMPLE_HEAD, **options)
    for header in texts:
        table.add_column(header, justify='left' if header in ('run mode', 'weights', 'stopped by') else 'right')
    for row in texts.itertuples(index=False):
        table.add_row(*map(escape, row))
    console.print(table)


def growth(frame: pd.DataFrame) -> Iterator[dict]:
    """Yield the growth of latency and multiply-adds with the swept size, by config and mode."""
    for (config, mode), own in frame.groupby(['config', 'mode'], sort=False):
        yield dict(
            config=config,
            mode=mode,
            unit=own['swept.unit'].iloc[0],
            latency=growth_exponent(own['swept.size'], own['time_ms.median']),
            macs=growth_exponent(own['swept.size'], own['macs_per_image'] * own['batch']),
        )


def show(report: dict, frame: pd.DataFrame, console: Console) -> None:
    """Print a report of ``tools/fps_benchmark.py`` and the frame of its results."""
    machine = report['machine']
    processor = machine['gpu'] or f'{machine["cpu"]} ({machine["cores"]} cores, {machine["cpu_isa"]})'
    console.print(f'{machine["device"]}: {processor}, {machine["threads"]} CPU threads')
    console.print(', '.join(f'{name} {version}' for name, version in machine['versions'].items()))
    for measures in frame['measures'].unique():
        console.print(f'timed: {measures}{", forward and backward" if report["settings"]["train"] else ""}')
    if frame['random_weights'].any():
        console.print('[yellow]random weights: speed of the architecture, not of a trained model')
    for ceiling in (ceiling for run in report['runs'] for ceiling in run['ceilings']):
        gemm = '×'.join(map(str, ceiling['gemm']))
        console.print(f'ceiling {ceiling["dtype"]}: {ceiling["gflops"]:.0f} GFLOP/s in a GEMM of {gemm}')
    for number, config in enumerate(frame['config'].unique(), 1):
        console.print(f'{number}: {Path(config).stem}', markup=False)
    rows, speed = displayed(frame), dict(SPEED)
    if frame['mode'].nunique() == 1:
        del speed['first in mode = 1']
    show_table(console, rows, speed, caption=_LEGEND)
    if 'stages_ms.rest' in rows:
        show_table(console, rows.dropna(subset='stages_ms.rest'), BY_STAGE, title='time by stage: ms per batch')
    if report['growth']:
        title = f'growth: exponent in {report["growth"][0]["unit"]}'
        show_table(console, pd.DataFrame(report['growth']), GROWTH, title=title)


def save(path: Path, draw: Callable[[Axes], None], height: float = 5) -> Path:
    """Draw one plot into a new figure and write it."""
    figure = Figure(figsize=(8, height), layout='constrained')
    draw(figure.add_subplot())
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return path


def plot_growth(frame: pd.DataFrame, axes: Axes) -> None:
    """Latency against the swept size; the legend gives the exponents of growth."""
    for own in growth(frame):
        points = frame[frame['config'].eq(own['config']) & frame['mode'].eq(own['mode'])]
        text = f'{_label(own)}: exponent {own["latency"]:.2f}, multiply-adds {own["macs"]:.2f}'
        axes.loglog(points['swept.size'], points['time_ms.median'], 'o-', label=text)
    axes.set(xlabel=frame['swept.unit'].iloc[0], ylabel='ms per batch')
    axes.grid(visible=True, which='both', alpha=0.3)
    axes.legend(fontsize='small', loc='lower left', bbox_to_anchor=(0, 1))  # above, since points may be anywhere


def plot_ratios(frame: pd.DataFrame, axes: Axes, labels: Sequence[str] | None = None) -> None:
    """Speed relative to the first config in the same run mode, with its interval."""
    if labels is None:
        labels = [f'{_label(row)}\n{row["batch"]}×{row["height"]}×{row["width"]}' for _, row in frame.iterrows()]
    median, low, high = (frame[f'{_SAME}.{key}'] for key in ('median', 'low', 'high'))
    bars = axes.barh(range(len(frame)), median, xerr=[median - low, high - median], tick_label=labels)
    axes.bar_label(bars, fmt='%.2f', padding=4)
    axes.margins(x=0.15, y=0.02)  # room for the numbers
    axes.axvline(1, color='gray', linewidth=1)
    axes.invert_yaxis()
    axes.tick_params('y', labelsize='small')
    axes.set(xlabel='speed, first config = 1')


def _label(row: dict | pd.Series) -> str:
    name = row['config']  # a file, or a model's name such as ViT-B/16
    return f'{Path(name).stem if name.endswith(".py") else name}, {row["mode"]}'


def write_plots(frame: pd.DataFrame, folder: Path) -> Iterator[Path]:
    """Write every plot that the rows have numbers for."""
    if 'swept.size' in frame:
        yield save(folder / 'latency.png', lambda axes: plot_growth(frame, axes))
        for value, own in frame.groupby('swept.value'):
            if len(own) > 1:
                yield save(folder / f'ratios_{value}.png', lambda axes, own=own: plot_ratios(own, axes))
    elif len(frame) > 1:
        yield save(folder / 'ratios.png', lambda axes: plot_ratios(frame, axes))
