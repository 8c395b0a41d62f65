"""Run the measurements of performance_report.yaml, and write their results to results/speed/ and to the pages.

Each measurement runs tools/fps_benchmark.py in its own process and keeps its JSON in --out-dir, so that an interrupted
run continues. The results file is named by hardware and versions; its rows of the same measurement are replaced. The
plots and the tables of docs/performance.md and README.md are made from that file. The machine must do nothing
else; --only measures a part.
"""

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import torch
from mmengine.fileio import load
from rich.console import Console

from mmvittm.apis.cli import run_tool
from mmvittm.benchmark.report import cells, displayed, markdown, plot_growth, plot_ratios, save, to_frame
from mmvittm.errors import UserError
from mmvittm.fileio import atomic_path, require_writable

PLAN = load(Path(__file__).with_suffix('.yaml'))
MEASUREMENTS: dict[str, dict] = PLAN['measurements']
MODELS = {config: model for group in PLAN['models'].values() for model, config in group.items()}
# a group of all configs that are in no other, for the model zoo
PLAN['models']['zoo'] = {
    path.stem: str(path) for path in sorted(Path('configs').glob('vit*/*.py')) if str(path) not in MODELS
}
DOC, README, RESULTS = Path('docs/performance.md'), Path('README.md'), Path('results/speed')
REPOSITORY = 'https://github.com/mmvittm/mmvittm/blob/main'
BEGIN, END = '<!-- begin generated -->', '<!-- end generated -->'
#: Columns of the table in DOC, and the cell of a model in README's: templates over a row.
TABLE = {
    'measurement': '{title}',
    'run mode': '{mode}',
    'model': '{model}',
    'GMACs per image': '{gmacs:.1f}',
    'median ms': '{time_ms.median:.0f}',
    'speed': '{speed_ratio.median:.2f}',
    'speed in the run mode': '{speed_ratio_same_mode.median:.2f}',
    '95 % interval': '{speed_ratio_same_mode.low:.2f}–{speed_ratio_same_mode.high:.2f}',
    'peak memory, MB': '{mb:.0f}',
}
CELL = {'cell': '{speed_ratio.median:.2f}×'}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out-dir', type=Path, default=Path('work_dirs/performance'), help='(default: %(default)s)')
    parser.add_argument('--doc', type=Path, help=f'page to write; results and plots go beside it (default: {DOC})')
    only_help = f'measure these again, of {", ".join(MEASUREMENTS)}'
    parser.add_argument('--only', nargs='+', choices=MEASUREMENTS, metavar='NAME', help=only_help)
    parser.add_argument('--fresh', action='store_true', help='measure everything again')
    parser.add_argument('--threads', type=int, default=2, help='CPU threads (default: 2)')
    parser.add_argument('--quick', action='store_true', help='one round and small sizes, to try the report itself')
    parser.add_argument('--render', type=Path, metavar='CSV', help='write plots and tables of CSV without measuring')
    args = parser.parse_args()
    if args.threads < 1:
        raise UserError(f'--threads must be a whole number above 0, not {args.threads}')
    if args.render and not args.render.is_file():
        raise UserError(f'results file not found: {args.render}')
    args.doc = args.doc or (args.out_dir / 'performance.md' if args.quick else DOC)
    return args


def arguments(name: str, threads: int, quick: bool) -> list[str]:
    """Arguments of tools/fps_benchmark.py for a measurement."""
    plan = MEASUREMENTS[name]
    group = PLAN['models'][plan['group']]
    words = [group[model] for model in plan.get('models', group)]
    words += ['--threads', str(threads), '--max-time', '30', *plan.get('args', '').split()]  # args may set another time
    if quick:
        words = ['shape=224,336' if word.startswith('shape=') else word for word in words]
        words += ['--shape', '224', '--whole-patches', '--rounds', '1', '--warmup', '0']
    return words


def measure(name: str, args: argparse.Namespace, console: Console) -> bool:
    """Run one measurement; its output goes to a log beside its results. Returns whether it succeeded."""
    command = ['tools/fps_benchmark.py', *arguments(name, args.threads, args.quick)]
    console.print(f'$ python {shlex.join(command)}', style='dim', soft_wrap=True, highlight=False)
    with (args.out_dir / f'{name}.log').open('w') as log:
        output = ['--out', str(args.out_dir / f'{name}.json')]
        done = subprocess.run([sys.executable, *command, *output], stdout=log, stderr=log, check=False)
    return not done.returncode


def measure_all(args: argparse.Namespace, console: Console) -> list[str]:
    """Run the measurements that are wanted and have no results yet; returns the names of those that failed."""
    kept = set() if args.fresh or args.only else {path.stem for path in args.out_dir.glob('*.json')}
    isa = torch.backends.cpu.get_cpu_capability()
    wanted = [name for name in args.only or MEASUREMENTS if name not in kept]
    failed = []
    for index, name in enumerate(wanted, 1):
        console.rule(f'{index}/{len(wanted)} {name}', align='left')
        if MEASUREMENTS[name].get('isa', isa) != isa:
            console.print(f'skipped: needs a CPU with {MEASUREMENTS[name]["isa"]}, and this one has {isa}')
        elif not measure(name, args, console):
            failed.append(name)
    return failed


def write_results(folder: Path, out_dir: Path) -> Path:
    """Write the JSON results in ``folder`` to the results file of this machine in ``out_dir``."""
    reports = {
        name: json.loads(path.read_text()) for name in MEASUREMENTS if (path := folder / f'{name}.json').is_file()
    }
    if not reports:
        raise UserError(f'no results in {folder}: every measurement failed, see the logs there')
    frames = []
    for name, report in reports.items():
        machine, versions = report['machine'], report['machine']['versions']
        text = f'{machine["cpu"]}, {machine["cores"]} cores, {machine["cpu_isa"]}, {machine["threads"]} threads'
        packages = ', '.join(f'{package} {version}' for package, version in versions.items())
        source = dict(version=versions['mmvittm'], date=machine['date'], machine=text, packages=packages)
        frames.append(to_frame(report['results']).assign(measurement=name, **source))
    hardware = re.sub(r'[^a-z0-9]+', '-', f'{machine["cpu"]}-{machine["cpu_isa"]}'.lower())
    path = out_dir / f'fps-cpu-{hardware}-{machine["threads"]}t-torch{versions["torch"].partition("+")[0]}.csv'
    if path.is_file():
        old = pd.read_csv(path)
        frames.insert(0, old[~old['measurement'].isin(reports)])
    order = {name: index for index, name in enumerate(MEASUREMENTS)}
    frame = pd.concat(frames).sort_values('measurement', key=lambda names: names.map(order), kind='stable')
    with atomic_path(path) as file:
        frame.to_csv(file, index=False, float_format='%.6g')
    return path


def draw(frame: pd.DataFrame, shown: pd.DataFrame, folder: Path) -> None:
    """Draw the plots of the page."""
    folder.mkdir(exist_ok=True)
    ratios = shown[shown['model'] != 'ViT-B/16']
    if len(ratios):
        labels = [f'{row["title"]}: {row["model"]}\n{row["mode"]}' for _, row in ratios.iterrows()]
        save(folder / 'ratios.png', lambda axes: plot_ratios(ratios, axes, labels), height=0.4 * len(ratios) + 1)
    plots = frame['measurement'].map(lambda name: MEASUREMENTS.get(name, {}).get('plot'))
    for plot, swept in frame.groupby(plots):
        # sweeps share sizes: the first measurement of each counts
        unique = swept.assign(config=swept['model']).drop_duplicates(['config', 'swept.size'])
        save(folder / f'{plot}.png', lambda axes, rows=unique: plot_growth(rows, axes))


def readme_table(shown: pd.DataFrame) -> str:
    """A line per measurement and run mode, a column per model."""
    rows = shown[[bool(MEASUREMENTS[name].get('readme')) for name in shown['measurement']]]
    line, model = ['title', 'mode'], 'model'
    unique = rows.assign(**cells(rows, CELL)).drop_duplicates([*line, model])
    table = unique.pivot(index=line, columns=model, values='cell')
    lines = pd.MultiIndex.from_frame(unique[line].drop_duplicates())  # in the order of the plan
    columns = [name for name in dict.fromkeys(MODELS.values()) if name in table]
    return markdown(table.reindex(index=lines, columns=columns).fillna('–').reset_index(names=['', 'run mode']))


def renewed(page: str, text: str) -> str:
    """Replace what is between the markers of ``page``; add them at its end if missing."""
    before, found, rest = page.partition(BEGIN)
    after = rest.partition(END)[2] if found else '\n'
    return f'{before.rstrip()}\n\n{BEGIN}\n\n{text}\n\n{END}{after}'


def main() -> None:
    args = parse_args()
    console, failed = Console(), []
    pages = [args.doc, README] if args.doc == DOC else [args.doc]
    folder = RESULTS if args.doc == DOC else args.doc.parent
    with ExitStack() as stack:
        # opened before the work, so that an unwritable page is found at once
        files = [stack.enter_context(atomic_path(page)) for page in pages]
        if not args.render:
            require_writable(args.out_dir)
            require_writable(folder)
            failed = measure_all(args, console)
        source = args.render or write_results(args.out_dir, folder)
        frame = pd.read_csv(source)
        titles = frame['measurement'].map(lambda name: MEASUREMENTS.get(name, {}).get('title'))
        frame = displayed(frame).assign(title=titles, model=frame['config'].map(MODELS))
        shown = frame.dropna(subset=['title', 'model'])
        draw(frame, shown, args.doc.parent / 'images')
        origin = 'Measured on {machine}; mmvittm {version}, {date}'.format(**frame.iloc[0])
        for page, file in zip(pages, files, strict=True):
            table = readme_table(shown) if page == README else markdown(cells(shown, TABLE))
            # PyPI shows the README without the repository around it
            link = f'{REPOSITORY}/{source.as_posix()}' if page == README else os.path.relpath(source, page.parent)
            old = page.read_text() if page.is_file() else '# Performance\n'
            file.write_text(renewed(old, f'{table}\n\n{origin}; [{source.name}]({link}).'))
    console.print(f'wrote {", ".join(map(str, pages))} from {source}', soft_wrap=True)
    if failed:
        raise UserError(f'these measurements failed: {", ".join(failed)}, see the logs in {args.out_dir}')


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # removes the temporary pages
    run_tool(main)
