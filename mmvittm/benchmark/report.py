"""Showing measurements: tables for the screen, rows for a spreadsheet."""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .parts import PARTS
from .statistics import LEVEL, growth_exponent

Cell = Callable[[dict], str]


def config_name(row: dict) -> str:
    return Path(row['config']).stem


def batch_text(row: dict) -> str:
    batch, _, height, width = row['shape']
    return f'{batch} × {height}×{width}'


def ratio_text(ratio: dict) -> str:
    """The median and its interval."""
    return f'{ratio["median"]:.3g} [{ratio["low"]:.3g}–{ratio["high"]:.3g}]'


def or_dash(value: float | None, text: Callable[[float], str]) -> str:
    return '–' if value is None else text(value)


def own_products_text(row: dict) -> str:
    """The share with half the width of its interval, and what it is a share of, in GFLOP/s."""
    share = row['share_of_products']
    if share is None:
        return '–'
    precision = (share['high'] - share['low']) / 2 / share['median']
    return f'{share["median"]:.0%} ±{precision:.1%} of {row["products_gflops"]["median"]:.0f}'


#: The columns of speed, and those of the method. The first column of both is the config.
SPEED: dict[str, Cell] = {
    'run by': lambda row: row['way'],
    'weights': lambda row: 'random' if row['random_weights'] else Path(row['checkpoint']).name,
    'batch': batch_text,
    'params (M)': lambda row: f'{row["parameters"] / 1e6:.2f}',
    'GMACs/image': lambda row: f'{row["macs_per_image"] / 1e9:.4g}',
    'ms/batch': lambda row: f'{row["time_ms"]["median"]:.2f} ±{row["precision"]:.1%}',
    'FPS': lambda row: f'{row["fps"]:.2f}',
    '× first': lambda row: ratio_text(row['speed_ratio']),
    '× its first': lambda row: ratio_text(row['speed_ratio_same_way']),
    'of ceiling': lambda row: or_dash(row['share_of_ceiling'], '{:.0%}'.format),
    'memory (MB)': lambda row: or_dash(row['peak_memory'], lambda peak: f'{peak / 1e6:.0f}'),
    'mIoU': lambda row: or_dash(row['miou'], '{:.2f}'.format),
}
METHOD: dict[str, Cell] = {
    'run by': lambda row: row['way'],
    'batch': batch_text,
    'rounds': lambda row: str(row['rounds']),
    'stopped by': lambda row: row['stopped_by'],
    'warm-up': lambda row: str(row['warmup']),
    'p10–p90 (ms)': lambda row: f'{row["time_ms"]["p10"]:.2f}–{row["time_ms"]["p90"]:.2f}',
    'outliers': lambda row: str(row['outliers']),
    'slowest (ms)': lambda row: f'{row["slowest_ms"]:.2f}',
    'of own products': own_products_text,
}


def table(rows: Sequence[dict], columns: dict[str, Cell], **options) -> Table:
    """One line per contender; a column in which nobody has anything is left out."""
    made = Table(**options)
    made.add_column('config', overflow='fold')
    cells = {name: [cell(row) for row in rows] for name, cell in columns.items()}
    cells = {name: texts for name, texts in cells.items() if set(texts) != {'–'}}
    for name in cells:
        text = name in ('run by', 'weights', 'stopped by')
        made.add_column(name, justify='left' if text else 'right', overflow='fold', no_wrap=not text)
    for row, *line in zip(rows, *cells.values(), strict=True):
        made.add_row(config_name(row), *line)
    return made


def parts_table(rows: Sequence[dict]) -> Table:
    """Milliseconds of a pass by part, a column for each contender; the columns sum to the last line."""
    made = Table(title='where the time goes: ms per batch')
    made.add_column('part')
    for row in rows:
        made.add_column(f'{config_name(row)}\n{row["way"]}, {batch_text(row)}', justify='right', overflow='fold')
    for part in (part for part in PARTS if any(part in row['parts_ms'] for row in rows)):
        cells = [(row['parts_ms'].get(part), sum(row['parts_ms'].values())) for row in rows]
        made.add_row(part, *('–' if ms is None else f'{ms:.2f} ({ms / whole:.0%})' for ms, whole in cells))
    made.add_section()
    made.add_row('whole pass', *(f'{sum(row["parts_ms"].values()):.2f}' for row in rows))
    return made


def growth(rows: Sequence[dict]) -> Iterator[dict]:
    """How latency and multiply-adds grow with what was swept, by config and way."""
    for config, way in dict.fromkeys((row['config'], row['way']) for row in rows):
        own = [row for row in rows if (row['config'], row['way']) == (config, way)]
        sizes = [row['swept']['size'] for row in own]
        yield dict(
            config=config,
            way=way,
            unit=own[0]['swept']['unit'],
            latency=growth_exponent(sizes, [row['time_ms']['median'] for row in own]),
            macs=growth_exponent(sizes, [row['macs_per_image'] * row['shape'][0] for row in own]),
        )


def growth_table(growths: Sequence[dict]) -> Table:
    made = Table(title=f'growth: exponent in {growths[0]["unit"]}')
    for name in ('config', 'run by', 'latency', 'multiply-adds'):
        made.add_column(name)
    for own in growths:
        made.add_row(config_name(own), own['way'], f'{own["latency"]:.3f}', f'{own["macs"]:.3f}')
    return made


def show(report: dict, console: Console) -> None:
    """All of a report of ``tools/fps_benchmark.py``."""
    machine, rows = report['machine'], report['results']
    processor = machine['gpu'] or f'{machine["cpu"]} ({machine["cores"]} cores, {machine["cpu_isa"]})'
    console.print(f'{machine["device"]}: {processor}, {machine["threads"]} CPU threads')
    console.print(', '.join(f'{name} {version}' for name, version in machine['versions'].items()))
    for measures in dict.fromkeys(row['measures'] for row in rows):
        console.print(f'timed: {measures}{", forward and backward" if report["settings"]["train"] else ""}')
    if any(row['random_weights'] for row in rows):
        console.print('[yellow]random weights: these are the speeds of architectures, not of trained models')
    for run in report['runs']:
        for ceiling in run['ceilings']:
            product = '×'.join(map(str, ceiling['product']))
            console.print(f'ceiling {ceiling["dtype"]}: {ceiling["gflops"]:.0f} GFLOP/s in a product of {product}')

    speed = dict(SPEED)
    if len({row['way'] for row in rows}) == 1:
        del speed['× its first']
    caption = (
        f'± and brackets: {LEVEL} % confidence of the median\n'
        'ratios of FPS, round by round: to the first line; to the first config run the same way'
    )
    console.print(table(rows, speed, caption=caption))
    caption = (
        'outliers stay in all numbers\n'
        "of own products: the speed as a share of that of the network's largest dense products in the same rounds "
        '(GFLOP/s);\nit stays when the speed of the machine changes'
    )
    console.print(table(rows, METHOD, caption=caption))
    if timed := [row for row in rows if 'parts_ms' in row]:
        console.print(parts_table(timed))
    if report['growth']:
        console.print(growth_table(report['growth']))


def flat(row: dict, prefix: str = '') -> dict:
    """A row without lists, its inner dicts spelled out: ``time_ms.median``; the shape as three numbers."""
    cells = {}
    for key, value in row.items():
        if isinstance(value, dict):
            cells |= flat(value, f'{prefix}{key}.')
        elif key == 'shape':
            cells |= dict(zip(('batch', 'height', 'width'), (value[0], *value[2:]), strict=True))
        elif not isinstance(value, list):
            cells[f'{prefix}{key}'] = value
    return cells


def write_csv(rows: Sequence[dict], path: Path) -> None:
    """One line per contender, for a spreadsheet."""
    lines = [flat(row) for row in rows]
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for line in lines for key in line)))
        writer.writeheader()
        writer.writerows(lines)
