"""Run the measurements of performance_report.yaml, and write their results to results/speed/ and to the pages.

Each measurement runs tools/fps_benchmark.py in its own process and keeps its JSON in --out-dir, so that an interrupted
run continues. The results file is named by hardware and versions; its rows of the same measurement are replaced. The
plots and the tables of docs/performance.md and README.md are made from that file. Takes under 30 minutes on two cores
that do nothing else.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
from mmengine.fileio import load
from rich.console import Console

from mmvittm.apis.cli import run_tool
from mmvittm.benchmark.plots import plot_growth, plot_ratios, save
from mmvittm.benchmark.report import displayed, fill, flatten
from mmvittm.errors import UserError
from mmvittm.fileio import atomic_path, require_writable

PLAN = load(Path(__file__).with_suffix('.yaml'))
MEASUREMENTS: dict[str, dict] = PLAN['measurements']
DOC, README, RESULTS = Path('docs/performance.md'), Path('README.md'), Path('results/speed')
REPOSITORY = 'https://github.com/mmvittm/mmvittm/blob/main'
MAX_TIME = 25  # seconds of rounds per measurement
BEGIN, END = '<!-- begin generated -->', '<!-- end generated -->'

#: The table of two configs: header -> template over the row of the second; `vit.…` are values of the first.
TABLE = {
    'ViT-B/16 : ViTTM-B 28/28': '{title}',
    'run mode': '{mode}',
    'GMACs per image': '{vit.gmacs:.1f} : {gmacs:.1f}',
    'median ms': '{vit.time_ms.median:.0f} : {time_ms.median:.0f}',
    'speed ratio': '{speed_ratio_same_mode.median:.2f}',
    '95 % interval': '{speed_ratio_same_mode.low:.2f}–{speed_ratio_same_mode.high:.2f}',
    'peak memory, MB': '{vit.mb:.0f} : {mb:.0f}',
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out-dir', type=Path, default=Path('work_dirs/performance'), help='(default: %(default)s)')
    parser.add_argument('--doc', type=Path, help=f'page to write; results and plots go beside it (default: {DOC})')
    names = list(MEASUREMENTS)
    parser.add_argument(
        '--only', nargs='+', choices=names, metavar='NAME', help=f'measure again, of {", ".join(names)}'
    )
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


def measure(name: str, args: argparse.Namespace, console: Console) -> bool:
    """Run one measurement; its output goes to a log beside its results. Returns whether it succeeded."""
    words = [*MEASUREMENTS[name]['args'].format(**PLAN['configs']).split(), '--threads', str(args.threads)]
    if '--max-time' not in words:
        words += ['--max-time', str(MAX_TIME)]
    if args.quick:
        words = ['shape=504,560' if word.startswith('shape=') else word for word in words]
        words += ['--rounds', '1', '--warmup', '0']
    command = ['tools/fps_benchmark.py', *words]
    console.print(f'$ python {shlex.join(command)}', style='dim', soft_wrap=True, highlight=False)
    with (args.out_dir / f'{name}.log').open('w') as log:
        output = ['--out', str(args.out_dir / f'{name}.json')]
        done = subprocess.run([sys.executable, *command, *output], stdout=log, stderr=log, check=False)
    return not done.returncode


def write_results(folder: Path, out_dir: Path) -> Path:
    """Write the JSON results in ``folder`` to the results file of this machine in ``out_dir``."""
    reports = {path.stem: json.loads(path.read_text()) for path in folder.glob('*.json') if path.stem in MEASUREMENTS}
    if not reports:
        raise UserError(f'no results in {folder}: every measurement failed, see the logs there')
    rows = []
    for name, report in reports.items():
        machine, versions = report['machine'], report['machine']['versions']
        text = f'{machine["cpu"]}, {machine["cores"]} cores, {machine["cpu_isa"]}, {machine["threads"]} threads'
        packages = ', '.join(f'{package} {version}' for package, version in versions.items())
        source = dict(version=versions['mmvittm'], date=machine['date'], machine=text, packages=packages)
        rows += [dict(measurement=name) | flatten(row) | source for row in report['results']]
    hardware = re.sub(r'[^a-z0-9]+', '-', f'{machine["cpu"]}-{machine["cpu_isa"]}'.lower())
    path = out_dir / f'fps-cpu-{hardware}-{machine["threads"]}t-torch{versions["torch"].partition("+")[0]}.csv'
    frame = pd.DataFrame(rows)
    if path.is_file():
        old = pd.read_csv(path)
        frame = pd.concat([old[~old['measurement'].isin(reports)], frame])
    frame = frame.sort_values('measurement', key=lambda names: names.map(list(MEASUREMENTS).index), kind='stable')
    with atomic_path(path) as file:
        frame.to_csv(file, index=False, float_format='%.6g')
    return path


def paired(rows: list[dict]) -> list[dict]:
    """Join the rows of the two configs of each measurement with a title, for each run mode."""
    joined = []
    for name, plan in MEASUREMENTS.items():
        own = [displayed(row) for row in rows if row['measurement'] == name] if 'title' in plan else []
        for vit, vittm in zip(own[::2], own[1::2], strict=True):
            joined.append(vittm | {f'vit.{key}': value for key, value in vit.items()} | plan)
    return joined


def table(joined: list[dict]) -> str:
    """The Markdown table; all but its first two columns are aligned to the right."""
    lines = [TABLE, ['---', '---', *['---:'] * (len(TABLE) - 2)]]
    lines += [[fill(template, row) for template in TABLE.values()] for row in joined]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def draw(rows: list[dict], joined: list[dict], folder: Path) -> None:
    """Draw the plots of the page."""
    folder.mkdir(exist_ok=True)
    labels = [f'{row["title"]}\n{row["mode"]}' for row in joined]
    if joined:
        save(folder / 'ratios.png', lambda axes: plot_ratios(joined, axes, labels), height=0.45 * len(joined) + 1)
    # sweeps share sizes: the first measurement of each counts
    swept = {(row['config'], row['swept.size']): row for row in reversed(rows) if 'swept.size' in row}
    if swept:
        save(folder / 'latency.png', lambda axes: plot_growth(list(swept.values()), axes))


def renewed(page: str, text: str) -> str:
    """Replace what is between the markers of ``page``; add them at its end if missing."""
    before, found, rest = page.partition(BEGIN)
    after = rest.partition(END)[2] if found else '\n'
    return f'{before.rstrip()}\n\n{BEGIN}\n\n{text}\n\n{END}{after}'


def main() -> None:
    args = parse_args()
    console = Console()
    pages = [args.doc, README] if args.doc == DOC else [args.doc]
    folder = RESULTS if args.doc == DOC else args.doc.parent
    failed = []
    with ExitStack() as stack:
        # opened before the work, so that an unwritable page is found at once
        files = [stack.enter_context(atomic_path(page)) for page in pages]
        if not args.render:
            require_writable(args.out_dir)
            require_writable(folder)
            kept = set() if args.fresh or args.only else {path.stem for path in args.out_dir.glob('*.json')}
            wanted = [name for name in args.only or MEASUREMENTS if name not in kept]
            for index, name in enumerate(wanted, 1):
                console.rule(f'{index}/{len(wanted)} {name}', align='left')
                if not measure(name, args, console):
                    failed.append(name)
        source = args.render or write_results(args.out_dir, folder)
        frame = pd.read_csv(source)
        rows = [row.dropna().to_dict() for _, row in frame.iterrows()]
        joined = paired(rows)
        draw(rows, joined, args.doc.parent / 'images')
        origin = 'Measured on {machine}; mmvittm {version}, {date}'.format(**rows[0])
        for page, file in zip(pages, files, strict=True):
            # PyPI shows the README without the repository around it
            link = f'{REPOSITORY}/{source.as_posix()}' if page == README else os.path.relpath(source, page.parent)
            old = page.read_text() if page.is_file() else '# Performance\n'
            shown = [row for row in joined if page != README or row['mode'] in PLAN['readme']]
            file.write_text(renewed(old, f'{table(shown)}\n\n{origin}; [{source.name}]({link}).'))
    console.print(f'wrote {", ".join(map(str, pages))} from {source}', soft_wrap=True)
    if failed:
        raise UserError(f'these measurements failed: {", ".join(failed)}, see the logs in {args.out_dir}')


if __name__ == '__main__':
    run_tool(main)
