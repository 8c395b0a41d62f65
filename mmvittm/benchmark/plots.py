"""Pictures of measurements, as PNG files."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .report import config_name


def save(path: Path, draw: Callable[[Axes], None], **options) -> None:
    """Draw one picture and write it; nothing of it stays in pyplot."""
    figure = Figure(figsize=(8, 5), layout='constrained')
    axes = figure.add_subplot(**options)
    draw(axes)
    figure.savefig(path, dpi=120)


def label(row: dict) -> str:
    return f'{config_name(row)}, {row["way"]}'


def sweep_plot(rows: Sequence[dict], growths: Sequence[dict], axes: Axes) -> None:
    """Latency against the swept size, both logarithmic, with the power law that fits and its exponent."""
    for own in growths:
        points = [row for row in rows if (row['config'], row['way']) == (own['config'], own['way'])]
        sizes = np.array([row['swept']['size'] for row in points], dtype=float)
        times = np.array([row['time_ms']['median'] for row in points])
        text = f'{label(own)}: exponent {own["latency"]:.2f}, multiply-adds {own["macs"]:.2f}'
        line = axes.plot(sizes, times, 'o', label=text)[0]
        fit = np.exp(np.log(times).mean() + own['latency'] * (np.log(sizes) - np.log(sizes).mean()))
        axes.plot(sizes, fit, color=line.get_color(), alpha=0.6)
    axes.set(xlabel=growths[0]['unit'], ylabel='ms per batch', xscale='log', yscale='log')
    axes.grid(visible=True, which='both', alpha=0.3)
    axes.legend(fontsize='small', loc='lower left', bbox_to_anchor=(0, 1))  # above, for points may be anywhere


def ratio_bars(rows: Sequence[dict], axes: Axes) -> None:
    """How many times faster than the first config each contender is, run the same way, with the interval."""
    labels = [f'{label(row)}\n{"×".join(map(str, row["shape"]))}' for row in rows]
    ratios = [row['speed_ratio_same_way'] for row in rows]
    middle = np.array([ratio['median'] for ratio in ratios])
    errors = [middle - [ratio['low'] for ratio in ratios], [ratio['high'] for ratio in ratios] - middle]
    bars = axes.barh(labels, middle, xerr=errors)
    axes.bar_label(bars, fmt='%.2f', padding=4)
    axes.margins(x=0.15)  # room for the numbers
    axes.axvline(1, color='gray', linewidth=1)
    axes.invert_yaxis()
    axes.tick_params('y', labelsize='small')
    axes.set(xlabel='speed, the first config run the same way = 1')


def accuracy_plot(rows: Sequence[dict], axes: Axes) -> None:
    """mIoU against FPS."""
    for row in rows:
        axes.plot(row['fps'], row['miou'], 'o', label=label(row))
    axes.set(xlabel='FPS', ylabel='mIoU (%)')
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize='small')


def write_plots(report: dict, folder: Path) -> Iterator[Path]:
    """Write every picture that the report has the numbers for."""
    rows = report['results']
    plots: dict[str, Callable[[Axes], None]] = {}
    if report['growth']:
        plots['latency'] = lambda axes: sweep_plot(rows, report['growth'], axes)
    for value, group in groupby(rows, key=lambda row: (row['swept'] or {}).get('value')):
        own = list(group)
        if len(own) > 1:
            plots['ratios' if value is None else f'ratios_{value}'] = lambda axes, own=own: ratio_bars(own, axes)
    if all(row['miou'] is not None for row in rows):
        plots['accuracy'] = lambda axes: accuracy_plot(rows, axes)
    for name, draw in plots.items():
        path = folder / f'{name}.png'
        save(path, draw)
        yield path
