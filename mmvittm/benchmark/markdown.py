"""The generated parts of docs/performance.md (targets beside results, a table per measurement) and of the README."""

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .plots import ratio_bars, save, sweep_plot
from .report import METHOD, PARTS, SPEED, Cell, config_name, or_dash

BEGIN, END = '<!-- begin generated -->', '<!-- end generated -->'
AGREEMENT = 'backbone-fp32-again'  # the measurement that repeats another

Reports = dict[str, dict]
Value = Callable[[Reports], float]


def rows_of(reports: Reports, name: str, way: str | None = None) -> list[dict]:
    """The rows of a measurement that were run in one way, e.g. ``'torch fp32'``; all without."""
    return [row for row in reports[name]['results'] if way in (None, row['way'])]


def speed_ratio(name: str, way: str | None = None) -> Value:
    """The second config to the first, run the same way."""
    return lambda reports: rows_of(reports, name, way)[1]['speed_ratio_same_way']['median']


def speed_to_first(name: str, way: str) -> Value:
    """The second config, run that way, to the first line of all."""
    return lambda reports: rows_of(reports, name, way)[1]['speed_ratio']['median']


def ceiling_share(name: str, way: str) -> Value:
    return lambda reports: rows_of(reports, name, way)[1]['share_of_ceiling']


def memory_ratio(name: str) -> Value:
    def ratio(reports: Reports) -> float:
        first, second = rows_of(reports, name)
        return second['peak_memory'] / first['peak_memory']

    return ratio


def growth_of(name: str, index: int, less: str | None = None) -> Value:
    """The exponent of the latency of the config at ``index``, or what it is above that of the multiply-adds."""
    return lambda reports: (
        reports[name]['growth'][index]['latency'] - (reports[name]['growth'][index][less] if less else 0)
    )


@dataclass(frozen=True)
class Target:
    """A number to be reached; ``authors`` is what their code reaches, measured once elsewhere."""

    work: str
    value: Value
    sign: str  # of _COMPARE
    goal: float
    authors: str = '–'

    def line(self, reports: Reports) -> list[str]:
        """Work, target, authors' code, this run and whether it is reached."""
        try:
            value = self.value(reports)
        except (KeyError, IndexError, TypeError, ValueError):  # not measured
            return [self.work, f'{self.sign} {self.goal}', self.authors, '–', '–']
        reached = 'yes' if _COMPARE[self.sign](value, self.goal) else '**no**'
        return [self.work, f'{self.sign} {self.goal}', self.authors, f'{value:.2f}', reached]


_COMPARE = {'≥': operator.ge, '≤': operator.le, '<': operator.lt}
_HALF = 'torch bf16, half weights'
TARGETS = (
    Target('classifier 224², batch 1, fp32', speed_ratio('classifier-b1-fp32'), '≥', 1.8, '1.65'),
    Target('classifier 224², batch 1, bf16 half weights', speed_ratio('classifier-b1-bf16'), '≥', 1.3, '1.04'),
    Target('classifier 224², batch 8, fp32', speed_ratio('classifier-b8-fp32'), '≥', 2.4, '2.30'),
    Target('classifier 224², batch 8, bf16 half weights', speed_ratio('classifier-b8-bf16'), '≥', 2.0, '1.61'),
    Target('backbone 512² : 504², fp32', speed_ratio('backbone-fp32'), '≥', 2.6, '2.49'),
    Target('backbone 512² : 504², bf16 half weights', speed_ratio('backbone-bf16'), '≥', 2.3, '2.07'),
    Target('with Segmenter, fp32', speed_ratio('segmenter-backends', 'torch fp32'), '≥', 2.75, '2.64'),
    Target('with Segmenter, bf16 half weights', speed_ratio('segmenter-backends', _HALF), '≥', 2.3),
    Target('with UperNet, fp32', speed_ratio('upernet-fp32'), '≥', 3.4, '3.33'),
    Target('with UperNet, bf16 half weights', speed_ratio('upernet-bf16'), '≥', 3.0),
    Target(
        'exponent of growth to 2048² of ViTTM-B 28/28, above that of its multiply-adds',
        growth_of('growth-pooled', 0, 'macs'),
        '≤',
        0.0,
    ),
    Target('exponent of growth to 2048² with 18×18 pooled process tokens', growth_of('growth-pooled', 1), '<', 1.05),
    Target('training step of the backbone, time, fp32', speed_ratio('train-fp32'), '≥', 2.8, '2.83'),
    Target('training step of the backbone, peak memory, ViTTM-B : ViT-B', memory_ratio('train-fp32'), '≤', 0.5),
    Target(
        'Segmenter, ViTTM-B exported bf16 (OpenVINO) : ViT-B fp32 eager',
        speed_to_first('segmenter-backends', 'openvino bf16'),
        '≥',
        10,
    ),
    Target('Segmenter, both exported bf16', speed_ratio('segmenter-backends', 'openvino bf16'), '≥', 2.4, '–'),
    Target(
        'exported fp32 backbone, share of the ceiling', ceiling_share('backbone-openvino', 'openvino fp32'), '≥', 0.8
    ),
)

#: Rows of the README's table: work, measurement, way and the paper's own ratio, which names no batch size.
SPEEDS = (
    ('classifier, 224², batch 1, fp32', 'classifier-b1-fp32', 'torch fp32', '–'),
    ('the same, bf16 weights', 'classifier-b1-bf16', _HALF, '–'),
    ('classifier, 224², batch 8, fp32', 'classifier-b8-fp32', 'torch fp32', '2.26'),
    ('the same, bf16 weights', 'classifier-b8-bf16', _HALF, '–'),
    ('backbone, 512² : 504², fp32', 'backbone-fp32', 'torch fp32', '–'),
    ('the same, bf16 weights', 'backbone-bf16', _HALF, '–'),
    ('with the Segmenter head, fp32', 'segmenter-backends', 'torch fp32', '1.94'),
    ('the same, bf16 weights', 'segmenter-backends', _HALF, '–'),
    ('the same, exported to OpenVINO, fp32', 'segmenter-backends', 'openvino fp32', '–'),
    ('the same, exported to OpenVINO, bf16', 'segmenter-backends', 'openvino bf16', '–'),
    ('with UperNet, fp32', 'upernet-fp32', 'torch fp32', '–'),
    ('the same, bf16 weights', 'upernet-bf16', _HALF, '–'),
    ('training step of the backbone, fp32', 'train-fp32', 'torch fp32, training', '–'),
)

#: What two runs of a command are compared by: its name, its key in a row and its text.
_AGREEING: tuple[tuple[str, str, Cell], ...] = (
    ('ms/batch', 'time_ms', SPEED['ms/batch']),
    ('of own products (GFLOP/s)', 'share_of_products', METHOD['of own products']),
)

_COLUMNS: dict[str, Cell] = {
    'config': config_name,
    **{name: cell for name, cell in SPEED.items() if name != 'weights'},
    **{name: METHOD[name] for name in ('of own products', 'rounds', 'stopped by', 'outliers')},
}


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table whose columns, but for the first, are aligned to the right."""
    marks = ['---', *['---:'] * (len(header) - 1)]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in (header, marks, *lines))


def results_table(rows: Sequence[dict]) -> str:
    cells = {name: [cell(row) for row in rows] for name, cell in _COLUMNS.items()}
    cells = {name: texts for name, texts in cells.items() if set(texts) != {'–'}}
    return markdown_table(list(cells), list(zip(*cells.values(), strict=True)))


def parts_lines(rows: Sequence[dict]) -> str:
    header = ['ms per batch', *(f'{config_name(row)}, {row["way"]}' for row in rows)]
    lines = [
        [part, *(or_dash(row['parts_ms'].get(part), '{:.2f}'.format) for row in rows)]
        for part in PARTS
        if any(part in row['parts_ms'] for row in rows)
    ]
    return markdown_table(header, [*lines, ['whole pass', *(f'{sum(row["parts_ms"].values()):.2f}' for row in rows)]])


def section(name: str, report: dict) -> str:
    """A measurement: how it was called for, ceilings, results, and parts and growth where there are any."""
    rows = report['results']
    measures = ', '.join(dict.fromkeys(row['measures'] for row in rows))
    training = ', forward and backward' if report['settings']['train'] else ''
    weights = 'Random weights. ' if all(row['random_weights'] for row in rows) else ''
    ceilings = '; '.join(
        f'{ceiling["dtype"]} {ceiling["gflops"]:.0f} GFLOP/s ({"×".join(map(str, ceiling["product"]))})'
        for run in report['runs']
        for ceiling in run['ceilings']
    )
    blocks = [f'### {name}', f'{weights}Timed: {measures}{training}. Ceiling: {ceilings}.', results_table(rows)]
    if timed := [row for row in rows if 'parts_ms' in row]:
        blocks.append(parts_lines(timed))
    if report['growth']:
        lines = [[config_name(own), f'{own["latency"]:.3f}', f'{own["macs"]:.3f}'] for own in report['growth']]
        header = [f'growth, exponent in {report["growth"][0]["unit"]}', 'latency', 'multiply-adds']
        blocks.append(markdown_table(header, lines))
    return '\n\n'.join(blocks)


def machine_line(machine: dict) -> str:
    return f'{machine["gpu"] or machine["cpu"]}, {machine["cores"]} cores, {machine["cpu_isa"]}'


def agreement(reports: Reports) -> Iterator[str]:
    """How far two runs of the same command are apart."""
    first = AGREEMENT.removesuffix('-again')
    if {first, AGREEMENT} <= reports.keys():
        lines = []
        for rows in zip(reports[first]['results'], reports[AGREEMENT]['results'], strict=True):
            for what, key, text in _AGREEING:
                medians = [row[key]['median'] for row in rows]
                apart = medians[1] / medians[0] - 1
                lines.append([config_name(rows[0]), what, *(text(row) for row in rows), f'{apart:+.1%}'])
        yield '## The same command twice'
        yield markdown_table(['config', '', 'first', 'second', 'apart'], lines)


def pictures(reports: Reports, folder: Path) -> Iterator[Path]:
    """Draw the plots that there are numbers for."""
    if 'growth' in reports:
        # ViTTM-B 28/28 is in both; its sizes go further here
        longer = reports.get('growth-pooled', dict(results=[], growth=[]))
        drawn = {own['config'] for own in longer['growth']}
        rows = longer['results'] + [row for row in reports['growth']['results'] if row['config'] not in drawn]
        growths = longer['growth'] + [own for own in reports['growth']['growth'] if own['config'] not in drawn]
        save(folder / 'latency.png', lambda axes: sweep_plot(rows, growths, axes))
        yield folder / 'latency.png'
    for name in ('segmenter-backends', 'segmenter-compile', 'upernet-fp32'):
        if name in reports:
            path = folder / f'ratios_{name}.png'
            save(path, lambda axes, name=name: ratio_bars(reports[name]['results'], axes))
            yield path


def generated(reports: Reports, images: Sequence[Path]) -> str:
    """All that stands between the markers."""
    header = ['work', 'target', "authors' code*", 'here', 'reached']
    blocks = [
        '## Targets',
        'Ratios are ViT-B : ViTTM-B unless said otherwise. *Measured once on another day with their release.',
        markdown_table(header, [target.line(reports) for target in TARGETS]),
    ]
    if reports:
        machine = next(iter(reports.values()))['machine']
        versions = {name: own for report in reports.values() for name, own in report['machine']['versions'].items()}
        dates = sorted({report['machine']['date'] for report in reports.values()})
        blocks += [
            '## Machine',
            f'{machine_line(machine)}, {machine["threads"]} threads; {", ".join(dates)}; '
            + ', '.join(f'{name} {version}' for name, version in versions.items())
            + '.',
        ]
    blocks += agreement(reports)
    blocks += [f'![{path.stem}](images/{path.name})' for path in images]
    blocks += ['## Measurements', *(section(name, report) for name, report in reports.items())]
    return '\n\n'.join(blocks)


def speeds(reports: Reports) -> str:
    """The README's table: what was measured of :data:`SPEEDS`, and on what."""
    lines = []
    for work, name, way, paper in SPEEDS:
        if name in reports:
            first, second = rows_of(reports, name, way)
            macs = f'{first["macs_per_image"] / 1e9:.1f} : {second["macs_per_image"] / 1e9:.1f}'
            times = f'{first["time_ms"]["median"]:.0f} : {second["time_ms"]["median"]:.0f}'
            lines.append([work, macs, times, f'{second["speed_ratio_same_way"]["median"]:.2f}', paper])
    header = ['ViT-B/16 : ViTTM-B 28/28', 'GMACs per image', 'median ms', 'ratio', "paper's ratio, on its GPU"]
    blocks = [markdown_table(header, lines)]
    if reports:
        machine = next(iter(reports.values()))['machine']
        blocks.append(f'Measured on: {machine_line(machine)}, {machine["threads"]} threads, {machine["date"]}.')
    return '\n\n'.join(blocks)


def renewed(page: str, text: str) -> str:
    """``page`` with ``text`` between the markers; they are added at the end if missing."""
    before, found, rest = page.partition(BEGIN)
    after = rest.partition(END)[2] if found else '\n'
    return f'{before.rstrip()}\n\n{BEGIN}\n\n{text}\n\n{END}{after}'
