"""Train, test and time a list of configs, one after the other, and put them into one table.

Made for configs/vittm/ablations, but any segmentation config that is trained by iterations will do. A call that was
stopped goes on where it was: finished configs are left alone and a half-trained one is resumed. Every config has its
folder in the work dir, WORK_DIR/NAME/HASH, where HASH stands for all of its settings: with a setting changed it is run
anew, in another folder. The speeds are measured at the end, of all finished configs in turns. WORK_DIR/table.md and
table.json hold the configs of the last call and are up to date after each of them.
"""

import argparse
import difflib
import hashlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.runner import find_latest_checkpoint
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

import mmvittm
from mmvittm.apis.cli import run_tool
from mmvittm.apis.config import load_config
from mmvittm.errors import UserError
from mmvittm.fileio import atomic_path

TOOLS = Path(__file__).parent
ITERATION = re.compile(r'Iter\((\w+)\) *\[ *(\d+)/(\d+)\]')  # mmengine's log lines


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='*', metavar='CONFIG', help='config file, or a name that --list prints')
    parser.add_argument('--all', action='store_true', help='run every ablation that --list prints')
    parser.add_argument('--list', action='store_true', help='print the names of the ablations there are, and stop')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/ablations'), help='(default: %(default)s)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of every config, as key=value, for example train_cfg.max_iters=3000',
    )
    return parser.parse_args()


# --- what to run -----------------------------------------------------------------------------------------------------


def known_ablations() -> dict[str, Path]:
    """The configs of configs/vittm/ablations by name, first the one that the others are compared to."""
    paths = (mmvittm.configs_dir() / 'vittm' / 'ablations').glob('*.py')
    return {path.stem: path for path in sorted(paths, key=lambda path: (path.stem != 'baseline', path.stem))}


@dataclass
class Run:
    """One config with its options, and what has become of it.

    Attributes:
        source (Path): The config file it was read from.
        cfg (Config): All settings, options included.
        work_dir (Path): Where the folders of all runs are.
        config_hash (str): Stands for the content of ``cfg``.
        folder (Path): Where everything it makes goes.
        error (str, optional): Why it failed.
    """

    source: Path
    cfg: Config
    work_dir: Path
    error: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        content = json.dumps(self.cfg.to_dict(), sort_keys=True, default=repr)
        self.config_hash = hashlib.sha256(content.encode()).hexdigest()[:12]
        self.folder = self.work_dir / self.name / self.config_hash

    @property
    def name(self) -> str:
        return self.source.stem

    @property
    def config(self) -> Path:
        """The config with its options, for the tools that run it."""
        return self.folder / f'{self.name}.py'

    @property
    def iterations(self) -> int:
        return self.cfg.train_cfg.max_iters

    @property
    def seed(self) -> int | None:
        return self.cfg.get('randomness', {}).get('seed')

    @property
    def result(self) -> dict | None:
        """What was measured, if the config was trained and tested to the end."""
        path = self.folder / 'result.json'
        return json.loads(path.read_text()) if path.is_file() else None

    @property
    def checkpoint(self) -> Path | None:
        """The latest checkpoint that was written completely."""
        folder = self.folder / 'train'
        if not (folder / 'last_checkpoint').is_file():
            return None
        path = folder / Path(find_latest_checkpoint(str(folder))).name  # it names the place where it was written
        return path if path.is_file() else None

    @property
    def trained(self) -> bool:
        return self.checkpoint is not None and self.checkpoint.stem == f'iter_{self.iterations}'


def chosen_runs(args: argparse.Namespace) -> list[Run]:
    if args.all and args.configs:
        raise UserError('--all runs every ablation: name configs or give --all, not both')
    if not args.all and not args.configs:
        raise UserError('nothing to run: name configs, or give --all (--list prints what there is)')
    paths = list(known_ablations().values()) if args.all else [find_config(config) for config in args.configs]
    names = [path.stem for path in paths]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f'two of the configs are called {twice}: one folder and row each, so rename or drop one')
    runs = [Run(path, load_config(path, args.cfg_options), args.work_dir) for path in paths]
    for run in runs:
        iterations = (run.cfg.get('train_cfg') or {}).get('max_iters')
        if not isinstance(iterations, int) or iterations < 1:
            raise UserError(
                f'config {run.source}: train_cfg.max_iters must be a whole number above 0, not {iterations!r}'
            )
    return runs


def find_config(config: str) -> Path:
    known = known_ablations()
    path = Path(config).expanduser()
    if config in known or path.is_file():
        return known.get(config, path)
    close = difflib.get_close_matches(path.stem, known, n=1)
    hint = f'did you mean {close[0]}' if close else '--list prints the ablations there are'
    raise UserError(f'{config} is neither a config file nor the name of an ablation: {hint}')


# --- running it ------------------------------------------------------------------------------------------------------


def call_tool(log: Path, on_iteration: Callable[[str, int, int], None], tool: str, *args: str | Path) -> None:
    """Run a tool of this folder with its output in ``log``.

    Raises:
        UserError: If the tool fails, with the last line it wrote.
    """
    last_line = 'no output'
    command = [sys.executable, str(TOOLS / tool), *map(str, args)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open('a', encoding='utf-8') as out,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding='utf-8', errors='replace'
        ) as process,
    ):
        try:
            for line in process.stdout:
                out.write(line)
                out.flush()
                last_line = line.strip() or last_line
                if match := ITERATION.search(line):
                    on_iteration(match[1], int(match[2]), int(match[3]))
        except BaseException:
            process.terminate()
            raise
    if process.returncode < 0:
        last_line = f'killed by {signal.Signals(-process.returncode).name}'
    if process.returncode:
        raise UserError(f'{tool}: {last_line.removeprefix("error: ")} ({log})')


def train_and_test(run: Run, on_iteration: Callable[[str, int, int], None]) -> None:
    """Bring ``run`` to its result from wherever it stands.

    Raises:
        UserError: If it fails.
    """
    with atomic_path(run.config) as path:
        run.cfg.dump(path)
    call = partial(call_tool, run.folder / 'log.txt', on_iteration)
    if not run.trained:
        resume = ['--resume', run.checkpoint] if run.checkpoint else []
        call('train.py', run.config, '--work-dir', run.folder / 'train', *resume)
    if not run.trained:
        raise UserError(
            f'train.py left no checkpoint iter_{run.iterations}.pth in {run.folder / "train"}: '
            'default_hooks.checkpoint must count iterations and save the last'
        )
    tested = run.folder / 'test'
    call('test.py', run.config, run.checkpoint, '--work-dir', tested, '--out', tested)
    metrics = json.loads((tested / 'metrics.json').read_text())
    if 'mIoU' not in metrics:
        raise UserError(f'the test of {run.source} gave no mIoU, but {", ".join(metrics) or "nothing"}')
    result = dict(
        config=shown(run.source),
        config_hash=run.config_hash,
        iterations=run.iterations,
        seed=run.seed,
        mIoU=metrics['mIoU'],
        metrics=metrics,
        checkpoint=run.checkpoint.relative_to(run.folder).as_posix(),
        mmvittm=mmvittm.__version__,
    )
    with atomic_path(run.folder / 'result.json') as path:
        path.write_text(json.dumps(result, indent=1) + '\n')


def time_finished(runs: list[Run], work_dir: Path) -> bool:
    """Time all finished runs against each other, unless this was done; returns whether it had to be."""
    finished = [run for run in runs if run.result and run.trained]
    if timed(work_dir).keys() >= {str(run.config) for run in finished}:
        return False
    configs, checkpoints = [run.config for run in finished], [run.checkpoint for run in finished]
    args = [*configs, '--checkpoint', *checkpoints, '--rounds', 20, '--out', work_dir / 'fps.json']
    call_tool(work_dir / 'fps.log', lambda *_: None, 'fps_benchmark.py', *args)
    return True


def last_timing(work_dir: Path) -> dict:
    """What tools/fps_benchmark.py wrote, if it was run."""
    path = work_dir / 'fps.json'
    return json.loads(path.read_text()) if path.is_file() else {}


def timed(work_dir: Path) -> dict[str, dict]:
    """The results of the last timing, by config."""
    return {result['config']: result for result in last_timing(work_dir).get('results', [])}


# --- the table -------------------------------------------------------------------------------------------------------

COLUMNS: dict[str, Callable[[dict], str]] = {
    'ablation': lambda row: row['name'],
    'mIoU (%)': lambda row: number(row['mIoU'], 1, '.2f') if not row['error'] else 'failed',
    'ms': lambda row: number(row['time_ms'], 1, '.1f'),
    'GMACs': lambda row: number(row['macs'], 1e9, '.3f'),
    'params (M)': lambda row: number(row['parameters'], 1e6, '.2f'),
    'iterations': lambda row: str(row['iterations']),
    'seed': lambda row: number(row['seed'], 1, '.0f'),
    'config': lambda row: f'{row["config"]} @ {row["config_hash"]}',
}


def number(value: float | None, unit: float, digits: str) -> str:
    return '–' if value is None else f'{value / unit:{digits}}'


def shown(path: Path) -> str:
    """``path`` from the folder that we are in or that holds the configs, wherever they are installed."""
    path = path.resolve()
    parents = [parent for parent in (Path.cwd(), mmvittm.configs_dir().parent) if path.is_relative_to(parent)]
    return path.relative_to(parents[0]).as_posix() if parents else str(path)


def table_rows(runs: list[Run], work_dir: Path) -> list[dict]:
    """One row per run; what is not measured yet is None."""
    speeds = timed(work_dir)
    rows = []
    for run in runs:
        result = run.result or {}
        speed = speeds.get(str(run.config), {}) if result else {}
        rows.append(
            dict(
                name=run.name,
                mIoU=result.get('mIoU'),
                time_ms=speed.get('time_ms', {}).get('median'),
                macs=speed.get('macs_per_image'),
                parameters=speed.get('parameters'),
                iterations=run.iterations,
                seed=run.seed,
                config=shown(run.source),
                config_hash=run.config_hash,
                error=run.error,
            )
        )
    return rows


def write_table(rows: list[dict], work_dir: Path) -> None:
    """To table.json and table.md."""
    lines = [COLUMNS, ['---'] + ['---:'] * (len(COLUMNS) - 2) + ['---']]
    lines += [[cell(row) for cell in COLUMNS.values()] for row in rows]
    with atomic_path(work_dir / 'table.md') as path:
        path.write_text(''.join(f'| {" | ".join(line)} |\n' for line in lines), encoding='utf-8')
    with atomic_path(work_dir / 'table.json') as path:
        report = dict(machine=last_timing(work_dir).get('machine'), rows=rows)
        path.write_text(json.dumps(report, indent=1) + '\n')


def show(rows: list[dict], console: Console) -> None:
    table = Table(caption='ms: median of one input (of one window, where the test slides); –: not measured')
    for name in COLUMNS:
        table.add_column(name, overflow='fold', justify='left' if name in ('ablation', 'config') else 'right')
    for row in rows:
        table.add_row(*(cell(row) for cell in COLUMNS.values()))
    console.print(table)


def main() -> None:
    args = parse_args()
    console = Console()
    if args.list:
        print(*known_ablations(), sep='\n')
        return
    runs = chosen_runs(args)
    say = partial(console.print, soft_wrap=True, highlight=False, markup=False)

    def update_table() -> list[dict]:
        rows = table_rows(runs, args.work_dir)
        write_table(rows, args.work_dir)
        return rows

    problems: list[str] = []
    update_table()  # before the work, so that an unwritable place is not found after it
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        overall, current = progress.add_task('ablations', total=len(runs)), progress.add_task('', visible=False)

        for run in progress.track(runs, task_id=overall):
            if run.result:
                say(f'{run.name}: finished before')
                continue
            start = f'from {run.checkpoint.stem}' if run.checkpoint else 'from the start'
            say(f'{run.name}: {start}, {run.iterations} iterations, in {run.folder}')

            def on_iteration(phase: str, done: int, total: int, name: str = run.name) -> None:
                progress.update(current, description=f'{name}: {phase}', completed=done, total=total, visible=True)

            try:
                train_and_test(run, on_iteration)
                say(f'{run.name}: mIoU {run.result["mIoU"]:.2f} %')
            except UserError as error:
                run.error = str(error)
                problems.append(f'{run.name} failed: {error}')
                say(problems[-1])
            progress.update(current, visible=False)
            update_table()
        progress.update(current, description='timing', completed=0, total=None, visible=True)
        try:
            say('timed' if time_finished(runs, args.work_dir) else 'nothing new to time')
        except UserError as error:
            problems.append(f'timing failed: {error}')
        progress.update(current, visible=False)

    show(update_table(), console if console.is_terminal else Console(width=140))
    if problems:
        raise UserError('; '.join(problems))


if __name__ == '__main__':
    # as an exception, so that the tool that is being waited for is stopped too and no two write to one folder later
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    run_tool(main)
