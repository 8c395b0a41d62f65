"""Tables and CSV of results. Flat rows are results rows without lists and inner dicts, see :func:`flatten`."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .profiling import STAGES
from .timing import LEVEL, growth_exponent

_SAME = 'speed_ratio_same_mode'
#: Columns of the tables: header -> template over a flat row.
SPEED = {
    'run mode': '{mode}',
    'batch': '{batch} × {height}×{width}',
    'params (M)': '{mega_parameters:.2f}',
    'GMACs/\nimage': '{gmacs:.4g}',
    'ms/batch': '{time_ms.median:.2f} ±{time_ms.precision:.1%}',
    'FPS': '{fps:.2f}',
    'speed, first = 1': '{speed_ratio.median:.3g} [{speed_ratio.low:.3g}–{speed_ratio.high:.3g}]',
    'first in mode = 1': f'{{{_SAME}.median:.3g}} [{{{_SAME}.low:.3g}}–{{{_SAME}.high:.3g}}]',
    'of\nceiling': '{share_of_ceiling:.0%}',
    'memory\n(MB)': '{mb:.0f}',
    'mIoU': '{miou:.2f}',
}
METHOD = {
    'run mode': '{mode}',
    'weights': '{weights}',
    'batch': '{batch} × {height}×{width}',
    'rounds': '{rounds}',
    'stopped by': '{stopped_by}',
    'warm-up': '{warmup}',
    'p10–p90 (ms)': '{time_ms.p10:.2f}–{time_ms.p90:.2f}',
    'outliers': '{outliers}',
    'slowest (ms)': '{slowest_ms:.2f}',
    'of own GEMMs': '{share_of_gemms.median:.0%} ±{share_of_gemms.precision:.1%} of {gemms_gflops.median:.0f}',
}
BY_STAGE = {
    'run mode': '{mode}',
    'batch': '{batch} × {height}×{width}',
    **{stage: f'{{stages_ms.{stage}:.2f}} ({{shares.{stage}:.0%}})' for stage in STAGES},
}
GROWTH = {'run mode': '{mode}', 'latency': '{latency:.3f}', 'multiply-adds': '{macs:.3f}'}
_LEGEND = f"""± and brackets: {LEVEL} % confidence interval of the median
speed: ratio of FPS, round by round; of ceiling: share of the rate of the fastest GEMM of the run"""
_METHOD_LEGEND = """outliers are included in all numbers; of own GEMMs: share of the rate (GFLOP/s) of the network's
three largest GEMMs, timed in the same rounds; it hardly changes with the load of the machine"""


def flatten(row: Mapping, prefix: str = '') -> dict:
    """Flatten a results row for a CSV: ``time_ms.median`` for inner dicts, the shape as three numbers, no lists."""
    flat = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f'{prefix}{key}.')
        elif key == 'shape':
            flat |= dict(batch=value[0], height=value[2], width=value[3])
        elif key == 'gemm':
            flat[f'{prefix}{key}'] = '×'.join(map(str, value))
        elif not isinstance(value, (list, tuple)):
            flat[f'{prefix}{key}'] = value
    return flat


def write_csv(rows: Sequence[dict], path: Path) -> None:
    """Write one line per flat row."""
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


def displayed(row: dict) -> dict:
    """Add to a flat row what tables show in other units."""
    values = dict(row, weights=Path(row['checkpoint']).name if row.get('checkpoint') else 'random')
    for name, key, unit in (
        ('mega_parameters', 'parameters', 1e6),
        ('gmacs', 'macs_per_image', 1e9),
        ('mb', 'peak_memory', 1e6),
    ):
        values[name] = None if row.get(key) is None else row[key] / unit
    stages = {stage: row[f'stages_ms.{stage}'] for stage in STAGES if f'stages_ms.{stage}' in row}
    return values | {f'shares.{stage}': ms / sum(stages.values()) for stage, ms in stages.items()}


def fill(template: str, values: dict) -> str:
    """Fill in a template such as ``'{time_ms.median:.2f}'``; a dash if a value is missing."""
    try:
        # str.format would read a dot in a name as an attribute
        return re.sub(r'{([^:}]+)', '{0[\\1]', template).format(values)
    except (KeyError, TypeError):
        return '–'


def results_table(rows: Sequence[dict], columns: dict[str, str], configs: Sequence[str], **options) -> Table:
    """One line per flat row, configs by number; a column without any value is left out."""
    table = Table(box=SIMPLE_HEAD, **options)
    table.add_column('config', justify='right')
    cells = {header: [fill(template, displayed(row)) for row in rows] for header, template in columns.items()}
    cells = {header: texts for header, texts in cells.items() if set(texts) != {'–'}}
    for header in cells:
        table.add_column(header, justify='left' if header in ('run mode', 'weights', 'stopped by') else 'right')
    for row, *line in zip(rows, *cells.values(), strict=True):
        table.add_row(str(configs.index(row['config']) + 1), *line)
    return table


def growth(rows: Sequence[dict]) -> Iterator[dict]:
    """Yield the growth of latency and multiply-adds with the swept size, by config and mode."""
    for config, mode in dict.fromkeys((row['config'], row['mode']) for row in rows):
        own = [row for row in rows if (row['config'], row['mode']) == (config, mode)]
        sizes = [row['swept.size'] for row in own]
        yield dict(
            config=config,
            mode=mode,
            unit=own[0]['swept.unit'],
            latency=growth_exponent(sizes, [row['time_ms.median'] for row in own]),
            macs=growth_exponent(sizes, [row['macs_per_image'] * row['batch'] for row in own]),
        )


def show(report: dict, rows: Sequence[dict], console: Console) -> None:
    """Print a report of ``tools/fps_benchmark.py`` and its flat rows."""
    machine, growths = report['machine'], report['growth']
    processor = machine['gpu'] or f'{machine["cpu"]} ({machine["cores"]} cores, {machine["cpu_isa"]})'
    console.print(f'{machine["device"]}: {processor}, {machine["threads"]} CPU threads')
    console.print(', '.join(f'{name} {version}' for name, version in machine['versions'].items()))
    for measures in dict.fromkeys(row['measures'] for row in rows):
        console.print(f'timed: {measures}{", forward and backward" if report["settings"]["train"] else ""}')
    if any(row['random_weights'] for row in rows):
        console.print('[yellow]random weights: speed of the architecture, not of a trained model')
    for ceiling in (ceiling for run in report['runs'] for ceiling in run['ceilings']):
        gemm = '×'.join(map(str, ceiling['gemm']))
        console.print(f'ceiling {ceiling["dtype"]}: {ceiling["gflops"]:.0f} GFLOP/s in a GEMM of {gemm}')
    configs = list(dict.fromkeys(row['config'] for row in rows))
    for number, config in enumerate(configs, 1):
        console.print(f'{number}: {Path(config).stem}')
    one_mode = len({row['mode'] for row in rows}) == 1
    speed = {header: text for header, text in SPEED.items() if not (one_mode and header == 'first in mode = 1')}
    console.print(results_table(rows, speed, configs, caption=_LEGEND))
    console.print(results_table(rows, METHOD, configs, caption=_METHOD_LEGEND))
    if staged := [row for row in rows if 'stages_ms.rest' in row]:
        console.print(results_table(staged, BY_STAGE, configs, title='time by stage: ms per batch'))
    if growths:
        console.print(results_table(growths, GROWTH, configs, title=f'growth: exponent in {growths[0]["unit"]}'))
