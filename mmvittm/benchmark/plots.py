"""Plots of results, as PNG files. All take flat rows, see :func:`.report.flatten`."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .report import growth


def save(path: Path, draw: Callable[[Axes], None], height: float = 5) -> Path:
    """Draw one plot into a new figure and write it."""
    figure = Figure(figsize=(8, height), layout='constrained')
    draw(figure.add_subplot())
    figure.savefig(path, dpi=120)
    return path


def label(row: dict) -> str:
    return f'{Path(row["config"]).stem}, {row["mode"]}'


def plot_growth(rows: Sequence[dict], axes: Axes) -> None:
    """Latency against the swept size, with the fitted power law."""
    for own in growth(rows):
        points = [row for row in rows if (row['config'], row['mode']) == (own['config'], own['mode'])]
        sizes = np.array([row['swept.size'] for row in points], dtype=float)
        times = np.array([row['time_ms.median'] for row in points])
        text = f'{label(own)}: exponent {own["latency"]:.2f}, multiply-adds {own["macs"]:.2f}'
        line = axes.plot(sizes, times, 'o', label=text)[0]
        fit = np.exp(np.log(times).mean() + own['latency'] * (np.log(sizes) - np.log(sizes).mean()))
        axes.plot(sizes, fit, color=line.get_color(), alpha=0.6)
    axes.set(xlabel=rows[0]['swept.unit'], ylabel='ms per batch', xscale='log', yscale='log')
    axes.grid(visible=True, which='both', alpha=0.3)
    axes.legend(fontsize='small', loc='lower left', bbox_to_anchor=(0, 1))  # above, since points may be anywhere


def plot_ratios(rows: Sequence[dict], axes: Axes, labels: Sequence[str] | None = None) -> None:
    """Speed relative to the first config in the same run mode, with its interval."""
    labels = labels or ['{}\n{}, {batch}×{height}×{width}'.format(*label(row).split(', ', 1), **row) for row in rows]
    ratios = {key: np.array([row[f'speed_ratio_same_mode.{key}'] for row in rows]) for key in ('median', 'low', 'high')}
    errors = [ratios['median'] - ratios['low'], ratios['high'] - ratios['median']]
    bars = axes.barh(range(len(rows)), ratios['median'], xerr=errors, tick_label=labels)
    axes.bar_label(bars, fmt='%.2f', padding=4)
    axes.margins(x=0.15, y=0.02)  # room for the numbers
    axes.axvline(1, color='gray', linewidth=1)
    axes.invert_yaxis()
    axes.tick_params('y', labelsize='small')
    axes.set(xlabel='speed, first config = 1')


def plot_accuracy(rows: Sequence[dict], axes: Axes) -> None:
    """mIoU against FPS."""
    for row in rows:
        axes.plot(row['fps'], row['miou'], 'o', label=label(row))
    axes.set(xlabel='FPS', ylabel='mIoU (%)')
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize='small')


def write_plots(rows: Sequence[dict], folder: Path) -> Iterator[Path]:
    """Write every plot that the rows have numbers for."""
    if 'swept.size' in rows[0]:
        yield save(folder / 'latency.png', lambda axes: plot_growth(rows, axes))
    for value, group in groupby(rows, key=lambda row: row.get('swept.value')):
        own = list(group)
        if len(own) > 1:
            name = 'ratios.png' if value is None else f'ratios_{value}.png'
            yield save(folder / name, lambda axes, own=own: plot_ratios(own, axes))
    if all(row['miou'] is not None for row in rows):
        yield save(folder / 'accuracy.png', lambda axes: plot_accuracy(rows, axes))
