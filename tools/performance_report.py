"""Run the measurements of performance_report.yaml, and write their results to results/speed/ and to the pages.

Each measurement runs tools/fps_benchmark.py in its own process and keeps its JSON in --out-dir, so that an interrupted
run continues; delete that folder to measure everything again. The results file is named by hardware and versions; its
rows of the same measurement are replaced. The plots and the tables of docs/performance.md and README.md are made from
that file. The machine must do nothing else; --only measures a part.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import torch
from mmengine.fileio import load
from pages import markdown, write_section
from rich.console import Console

from mmvittm.apis.cli import positive_int, run_tool
from mmvittm.benchmark.machine import hardware_slug
from mmvittm.benchmark.report import cells, displayed, plot_growth, plot_ratios, save, to_frame
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
#: Columns of the table in DOC: templates over a row.
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


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out-dir', type=Path, default=Path('work_dirs/performance'), help='(default: %(default)s)')
    only_help = f'measure these again, of {", ".join(MEASUREMENTS)}'
    parser.add_argument('--only', nargs='+', choices=MEASUREMENTS, metavar='NAME', help=only_help)
    parser.add_argument('--threads', type=positive_int, default=2, help='CPU threads (default: 2)')
    parser.add_argument('--render', type=Path, metavar='CSV', help='write plots and tables of CSV without measuring')
    args = parser.parse_args()
    if args.render and not args.render.is_file():
        raise UserError(f'results file not found: {args.render}')
    return args


def arguments(name: str, threads: int) -> list[str]:
    """Arguments of tools/fps_benchmark.py for a measurement."""
    plan = MEASUREMENTS[name]
    group = PLAN['models'][plan['group']]
    words = [group[model] for model in plan.get('models', group)]
    return [*words, '--threads', str(threads), '--max-time', '30', *plan.get('args', '').split()]


def measure(args: argparse.Namespace, console: Console) -> list[str]:
    """Run the measurements that are wanted and have no results yet; returns the names of those that failed."""
    isa = torch.backends.cpu.get_cpu_capability()
    wanted = args.only or [name for name in MEASUREMENTS if not (args.out_dir / f'{name}.json').is_file()]
    failed = []
    for index, name in enumerate(wanted, 1):
        console.rule(f'{index}/{len(wanted)} {name}', align='left')
        if MEASUREMENTS[name].get('isa', isa) != isa:
            console.print(f'skipped: needs a CPU with {MEASUREMENTS[name]["isa"]}, and this one has {isa}')
            continue
        out = str(args.out_dir / f'{name}.json')
        command = ['tools/fps_benchmark.py', *arguments(name, args.threads), '--out', out]
        console.print(f'$ python {shlex.join(command)}', style='dim', soft_wrap=True, highlight=False, markup=False)
        with (args.out_dir / f'{name}.log').open('w') as log:
            if subprocess.run([sys.executable, *command], stdout=log, stderr=log, check=False).returncode:
                failed.append(name)
    return failed


def write_results(out_dir: Path) -> Path:
    """Write the results in ``out_dir`` to the results file of this machine."""
    frames, names = [], set()
    for name in MEASUREMENTS:
        if (path := out_dir / f'{name}.json').is_file():
            report = json.loads(path.read_text())
            machine, versions = report['machine'], report['machine']['versions']
            source = dict(
                version=versions['mmvittm'],
                date=machine['date'],
                machine='{cpu}, {cores} cores, {cpu_isa}, {threads} threads'.format(**machine),
                packages=', '.join(f'{package} {version}' for package, version in versions.items()),
            )
            torch_version = versions['torch'].partition('+')[0]
            names.add(f'fps-cpu-{hardware_slug(machine)}-{machine["threads"]}t-torch{torch_version}.csv')
            frames.append(to_frame(report['results']).assign(measurement=name, **source))
    if not frames:
        raise UserError(f'no results in {out_dir}: every measurement failed, see the logs there')
    if len(names) > 1:
        raise UserError(f'{out_dir} has results for {" and ".join(sorted(names))}: delete those of other settings')
    path = RESULTS / names.pop()
    new = pd.concat(frames)
    if path.is_file():
        old = pd.read_csv(path)
        new = pd.concat([old[~old['measurement'].isin(new['measurement'])], new])
    order = {name: index for index, name in enumerate(MEASUREMENTS)}
    with atomic_path(path) as file:
        new = new.sort_values('measurement', key=lambda names: names.map(order), kind='stable')
        new.to_csv(file, index=False, float_format='%.6g')
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
    rows = shown[shown['measurement'].isin([name for name, plan in MEASUREMENTS.items() if plan.get('readme')])]
    line, speeds = ['title', 'mode'], rows['speed_ratio.median'].map('{:.2f}×'.format)
    unique = rows.assign(speed=speeds).drop_duplicates([*line, 'model'])
    table = unique.pivot(index=line, columns='model', values='speed')
    lines = pd.MultiIndex.from_frame(unique[line].drop_duplicates())  # in the order of the plan
    columns = [name for name in dict.fromkeys(MODELS.values()) if name in table]
    return markdown(table.reindex(index=lines, columns=columns).fillna('–').reset_index(names=['', 'run mode']))


def main() -> None:
    args = parse_args()
    console, failed = Console(), []
    if not args.render:
        for folder in (args.out_dir, RESULTS, DOC.parent):  # before the work
            require_writable(folder)
        failed = measure(args, console)
    source = args.render or write_results(args.out_dir)
    frame = pd.read_csv(source)
    titles = frame['measurement'].map(lambda name: MEASUREMENTS.get(name, {}).get('title'))
    frame = displayed(frame).assign(title=titles, model=frame['config'].map(MODELS))
    shown = frame.dropna(subset=['title', 'model'])
    draw(frame, shown, DOC.parent / 'images')
    machines, versions, dates = (' and '.join(sorted(shown[name].unique())) for name in ('machine', 'version', 'date'))
    origin = f'Measured on {machines}; mmvittm {versions}, {dates}'
    relative = os.path.relpath(source, DOC.parent)
    write_section(DOC, f'\n{markdown(cells(shown, TABLE))}\n\n{origin}; [{source.name}]({relative}).\n')
    # PyPI shows the README without the repository around it
    write_section(README, f'\n{readme_table(shown)}\n\n{origin}; [{source.name}]({REPOSITORY}/{source.as_posix()}).\n')
    print(f'wrote {DOC} and {README} from {source}')
    if failed:
        raise UserError(f'these measurements failed: {", ".join(failed)}, see the logs in {args.out_dir}')


if __name__ == '__main__':
    run_tool(main)
