"""Run a study: train and test several configs once per fold or seed, and report the differences with their intervals.

A study is a YAML file such as configs/studies/blue-marble.yml. Results go to CSV files in RESULTS/STUDY: runs.csv has a
row per run, curves.csv the validation metric over the training, scalars.csv the logged scalars that the study names,
speed.csv the times. A study may refer to rows of other CSV files there, to compare with what it does not train.
Finished runs are skipped, those of equal settings in another study of RESULTS are copied, and an interrupted training
resumes from its checkpoint, so stop and restart the tool at any time. A failed run is reported and does not stop the
others.
"""

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from modulefinder import ModuleFinder
from pathlib import Path

import pandas as pd
import torch
import yaml
from mmengine.config import Config
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from study_report import models_of, read_rows, write_report

import mmvittm
from mmvittm.apis.cli import CfgOptions, positive_int, run_tool
from mmvittm.apis.config import build_model, load_config
from mmvittm.benchmark.machine import describe_machine, hardware
from mmvittm.errors import UserError
from mmvittm.fileio import atomic_path

TOOLS = Path(__file__).parent
STUDIES = mmvittm.configs_dir() / 'studies'
# A change of these settings changes the results and so the hash; elsewhere a config says where and how to log.
HASHED = (
    'model', 'data_preprocessor', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'test_evaluator',
    'optim_wrapper', 'param_scheduler', 'train_cfg', 'custom_hooks', 'randomness', 'load_from',
)  # fmt: skip
NOT_HASHED = ('data_root', 'num_workers', 'persistent_workers')
PROGRESS = re.compile(r'(?:Iter|Epoch)\(train\)\s+(?:\[(\d+)\])?\[\s*(\d+)/(\d+)\]')  # in mmengine's log


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ', '.join(sorted(path.stem for path in STUDIES.glob('*.yml')))
    parser.add_argument('study', help=f'study file, or one of {names}')
    parser.add_argument('--jobs', type=positive_int, default=1, metavar='N', help='runs at a time (default: 1)')
    only = parser.add_mutually_exclusive_group()
    only.add_argument('--time', action='store_true', help='only time all models; needs a quiet machine')
    only.add_argument('--report', action='store_true', help='only write the report from the CSV files')
    parser.add_argument(
        '--results', type=Path, default=Path('results'), help='folder of the CSV files (default: %(default)s)'
    )
    docs_help = 'page of the report (default: docs/study.md, of a study of your own RESULTS/STUDY/README.md)'
    parser.add_argument('--docs', type=Path, help=docs_help)
    work_help = 'logs and checkpoints (default: %(default)s)'
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/studies'), help=work_help)
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, default={}, help='overrides of every config')
    return parser.parse_args()


def load_study(name: str) -> tuple[str, dict]:
    """Read a study by path or name; returns its name and content, and its folder as ``folder`` in that."""
    path = next((path for path in (Path(name).expanduser(), STUDIES / f'{name}.yml') if path.is_file()), None)
    if path is None:
        raise UserError(f'{name} is neither a study file nor the name of one in {STUDIES}')
    try:
        study = yaml.safe_load(path.read_text(encoding='utf-8'))
    except yaml.YAMLError as error:
        raise UserError(f'study {path} is not valid YAML: {" ".join(str(error).split())}') from error
    if isinstance(study, dict):
        study = {key: value for key, value in study.items() if value is not None}  # an empty section is none
    required = {'title', 'metric', 'configs', 'repeats'}
    optional = {'options', 'model_options', 'first_stages', 'references', 'comparisons', 'note', 'scalars', 'shape'}
    if not isinstance(study, dict) or not required <= study.keys() <= required | optional:
        needs, may = (', '.join(sorted(keys)) for keys in (required, optional))
        raise UserError(f'study {path} needs the keys {needs} and may have {may}')
    if not {'name', 'values', 'keys'} <= set(study['repeats']):
        raise UserError(f'study {path}: repeats needs name (such as fold), values and keys (settings that take one)')
    for model, reference in study.get('references', {}).items():
        if not isinstance(reference, list) or [type(value) for value in reference] != [str, dict]:
            raise UserError(
                f'study {path}: reference {model} needs a list of a CSV file and a dict of values of its columns'
            )
    for key in ('model_options', 'first_stages'):
        if unknown := set(study.get(key, {})) - set(study['configs']):
            raise UserError(f'study {path} has {key} of {", ".join(sorted(unknown))}, not one of its configs')
    if unknown := {model for pair in study.get('comparisons', []) for model in pair} - set(models_of(study)):
        raise UserError(f'study {path} compares {", ".join(sorted(unknown))}, not one of its configs or references')
    return path.stem, study | dict(folder=path.parent)


@dataclass
class Run:
    """One config with one fold or seed.

    Attributes:
        model (str): Name of the config in the study.
        source (str): Path of the config, from the folder of the study or from ``configs/``.
        repeat (int): The fold or seed.
        cfg (Config): All settings.
        first (Run, optional): The training whose weights this one starts from.
        hash (str): Hash of the settings that affect the result, and of the source of custom modules.
        folder (Path): Folder of its files.
        config (Path): The file that holds ``cfg``.
    """

    model: str
    source: str
    repeat: int
    cfg: Config
    work_dir: Path
    first: 'Run | None' = None

    def __post_init__(self) -> None:
        self.hash = hash_of(self.cfg, self.first.hash if self.first else '')
        self.folder = self.work_dir / re.sub(r'\W+', '-', self.model) / f'{self.repeat}-{self.hash}'
        self.config = self.folder / 'config.py'

    @property
    def length(self) -> int:
        """Iterations of the training, or epochs."""
        return self.cfg.train_cfg.get('max_iters') or self.cfg.train_cfg.get('max_epochs') or 0

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint of the training."""
        train = self.folder / 'train'
        return train / Path((train / 'last_checkpoint').read_text().strip()).name  # the folder may be a copy

    def write_config(self) -> None:
        with atomic_path(self.config) as path:
            self.cfg.dump(path)


def hash_of(cfg: Config, first: str = '') -> str:
    """Hash the settings that affect the result, the source of custom modules and the hash of a first stage.

    Of mmvittm itself, the commit is recorded.
    """
    settings = {key: _plain(cfg.get(key)) for key in HASHED}
    digest = hashlib.sha256((json.dumps(settings, sort_keys=True, default=repr) + first).encode())
    for name in (cfg.get('custom_imports') or {}).get('imports', []):
        for source in _sources(name):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def _plain(value: object) -> object:
    """``value`` in plain containers, without :data:`NOT_HASHED`."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items() if key not in NOT_HASHED}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def _sources(module: str) -> list[Path]:
    """Files of a custom module and of those beside it that it imports; none for mmvittm, whose commit is recorded."""
    spec = None if module.partition('.')[0] == 'mmvittm' else importlib.util.find_spec(module)
    if spec is None or not spec.origin:
        return []
    path = Path(spec.origin)
    if path.name == '__init__.py':
        return sorted(path.parent.rglob('*.py'))
    if 'site-packages' in path.parts:
        return [path]
    finder = ModuleFinder(path=[str(path.parent)])
    finder.run_script(str(path))  # reads the import statements, runs nothing
    return sorted({Path(found.__file__) for found in finder.modules.values() if found.__file__})


def _repeated(keys: list[str] | dict[str, str], value: int) -> dict:
    """Settings of one fold or seed: those of a list take it, those of a mapping take a text that contains it as {}."""
    if isinstance(keys, dict):
        return {key: text.format(value) for key, text in keys.items()}
    return dict.fromkeys(keys, value)


def load_source(source: str, study: dict, options: dict) -> Config:
    """Load a config by its path from the folder of the study, or else from ``configs/``."""
    beside = study['folder'] / source
    return load_config(beside if beside.is_file() else mmvittm.configs_dir() / source, options)


def build_runs(study: dict, cfg_options: dict, work_dir: Path) -> list[Run]:
    """All runs of a study, ordered so that every config gets a fold or seed before any gets the next."""
    runs = []
    for repeat in study['repeats']['values']:
        common = _repeated(study['repeats']['keys'], repeat) | cfg_options
        for model, source in study['configs'].items():
            options = study.get('options', {}) | study.get('model_options', {}).get(model, {}) | common
            first = None
            if stage := study.get('first_stages', {}).get(model):
                first = Run('first stage', stage, repeat, load_source(stage, study, common), work_dir)
            run = Run(model, source, repeat, load_source(source, study, options), work_dir, first)
            for stage in filter(None, (first, run)):
                if not stage.length:
                    raise UserError(f'config {stage.source} has no train_cfg.max_iters or max_epochs')
            runs.append(run)
    return runs


class Tools:
    """The tools that run as child processes; all of them end together."""

    def __init__(self) -> None:
        self.processes: set[subprocess.Popen] = set()
        self.stopped = False
        self.guard = threading.Lock()
        self.first_stages = defaultdict(threading.Lock)  # by folder, since several models may share one

    def call(self, folder: Path, on_line: Callable[[str], None], tool: str, *args: str | Path) -> None:
        """Run a tool with its output in ``folder/log.txt``.

        The child inherits a lock on the folder, which holds even if this process is killed.

        Raises:
            UserError: If the tool fails, with the last line it wrote, or if another process runs in the folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        last_line = 'no output'
        with (folder / 'lock').open('w') as lock, (folder / 'log.txt').open('a', encoding='utf-8') as log:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f'another process is still running in {folder}') from None
            with self.guard:
                if self.stopped:
                    raise UserError('stopped')
                process = subprocess.Popen(
                    [sys.executable, str(TOOLS / tool), *map(str, args)],
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding='utf-8', errors='replace',
                    pass_fds=[lock.fileno()],
                    # the config runs from another folder, but its custom modules lie beside the original
                    env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
                )  # fmt: skip
                self.processes.add(process)
            for line in process.stdout:
                log.write(line)
                log.flush()
                last_line = line.strip() or last_line
                on_line(line)
            process.wait()
            self.processes.discard(process)
        if process.returncode < 0:
            last_line = f'killed by {signal.Signals(-process.returncode).name}'
        if process.returncode:
            raise UserError(f'{tool}: {last_line.removeprefix("error: ")} ({folder / "log.txt"})')

    def stop(self) -> None:
        """End the running tools; a training saves a checkpoint first."""
        with self.guard:
            self.stopped = True
            for process in tuple(self.processes):
                process.terminate()
        for process in tuple(self.processes):
            process.wait()


def train(run: Run, tools: Tools, on_progress: Callable[[float], None]) -> None:
    """Begin, continue or leave as it is the training of ``run``; its share that is done goes to ``on_progress``."""

    def on_line(line: str) -> None:
        if match := PROGRESS.search(line):
            epoch, done, total = (int(number or 1) for number in match.groups())
            on_progress((epoch - 1 + done / total) / (run.length if match[1] else 1))

    run.write_config()
    tools.call(run.folder, on_line, 'train.py', run.config, '--work-dir', run.folder / 'train', '--resume', '--verbose')


def train_and_test(run: Run, metric: str, tools: Tools, on_progress: Callable[[float], None]) -> dict:
    """Bring ``run`` from any state to its metrics. Raises a :class:`UserError` if it fails."""
    start, test = time.monotonic(), run.folder / 'test'
    if run.first:
        with tools.first_stages[run.first.folder]:
            train(run.first, tools, lambda share: on_progress(share / 2))
        run.cfg.load_from = str(run.first.checkpoint)
    train(run, tools, lambda share: on_progress((1 + share) / 2 if run.first else share))
    arguments = ('--work-dir', test, '--out', test, '--verbose')
    tools.call(run.folder, lambda line: None, 'test.py', run.config, run.checkpoint, *arguments)
    metrics = json.loads((test / 'metrics.json').read_text())
    if metric not in metrics:
        raise UserError(f'the test gave no {metric}, but {", ".join(metrics)}')
    return metrics | dict(minutes=round((time.monotonic() - start) / 60, 1))


def logged(folder: Path) -> Iterator[dict]:
    """Yield the lines of mmengine's log of scalars."""
    for path in sorted(folder.glob('train/*/vis_data/scalars.json')):
        # a killed process leaves half a line
        yield from (json.loads(line) for line in path.read_text().splitlines() if line.endswith('}'))


def validation_curve(folder: Path, metric: str) -> dict[int, float]:
    """The validation metric by iteration or epoch."""
    return {each['step']: each[metric] for each in logged(folder) if metric in each}


def training_scalars(folder: Path, names: list[str]) -> dict[int, dict[str, float]]:
    """The scalars of a training by iteration; a name stands for those of all blocks."""
    scalars = defaultdict(dict)
    for line in logged(folder):
        found = {key: float(f'{value:.4g}') for key, value in line.items() if key.partition('/block_')[0] in names}
        if found:
            scalars[line['step']] |= found
    return scalars


def record(run: Run, metrics: dict, study: dict, folder: Path) -> None:
    """Append a finished run to the CSV files."""
    key, metric = {'model': run.model, study['repeats']['name']: run.repeat, 'hash': run.hash}, study['metric']
    numbers = {name: round(value, 3) for name, value in metrics.items() if isinstance(value, (int, float))}
    modules = [importlib.import_module(name) for name in ('torch', 'mmengine', 'mmvittm')]
    row = key | dict(config=run.source, length=run.length) | numbers
    row |= dict(
        machine=torch.cuda.get_device_name() if torch.cuda.is_available() else hardware(describe_machine('cpu')),
        versions=' '.join(f'{module.__name__}={module.__version__.split("-")[0]}' for module in modules),
        commit=commit_of(TOOLS),
    )
    if curve := validation_curve(run.folder, metric):
        rows = [key | {'step': step, metric: round(value, 3)} for step, value in curve.items()]
        append_rows(folder / 'curves.csv', rows)
    if scalars := training_scalars(run.folder, study.get('scalars', [])):
        append_rows(folder / 'scalars.csv', [key | {'step': step} | row for step, row in scalars.items()])
    append_rows(folder / 'runs.csv', [row])  # last, since a run that is in it counts as done


def commit_of(folder: Path) -> str:
    """Return the commit of a folder of a repository, '' for an installed one or without git."""
    if not (folder.parent / '.git').exists():  # git would describe a repository around an environment
        return ''
    try:
        command = ['git', 'describe', '--always', '--dirty']
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ''


def append_rows(path: Path, rows: list[dict]) -> None:
    """Append to a CSV file, which gets new columns as needed; its folder is locked against other processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        tables = [read_rows(path)] if path.is_file() else []
        with atomic_path(path) as temporary:
            pd.concat([*tables, pd.DataFrame(rows)]).to_csv(temporary, index=False)
    finally:
        os.close(folder)


def copy_from_other_study(run: Run, repeat: str, folder: Path) -> bool:
    """Copy the rows of a run of equal hash in the results of another study; return whether there is one."""
    for path in sorted(folder.parent.glob('*/runs.csv')):
        if path.parent != folder and run.hash in set(read_rows(path).hash):
            for table in (path.with_name(name) for name in ('curves.csv', 'scalars.csv', 'runs.csv')):
                rows = read_rows(table) if table.is_file() else pd.DataFrame(columns=['model', repeat, 'hash'])
                own = rows[rows.hash == run.hash].rename(columns={rows.columns[1]: repeat})  # the other may have folds
                own = own.assign(**{'model': run.model, repeat: run.repeat})
                if len(own):
                    append_rows(folder / table.name, own.to_dict('records'))
            return True
    return False


def unbuildable(runs: list[Run]) -> dict[str, Exception]:
    """Build the model of each config, and return the errors: better now than after hours of training the others."""
    errors = {}
    for run in {run.model: run for run in runs}.values():
        try:
            for stage in filter(None, (run.first, run)):
                build_model(stage.cfg)
        except Exception as error:  # a custom module may raise anything
            errors[run.model] = error
    return errors


def run_study(runs: list[Run], study: dict, folder: Path, jobs: int, console: Console) -> list[str]:
    """Do the runs that are not in runs.csv; returns the problems, a sentence each."""
    repeat, metric, tools = study['repeats']['name'], study['metric'], Tools()
    done = set()
    if (folder / 'runs.csv').is_file():
        table = read_rows(folder / 'runs.csv')
        done = set(table[['model', repeat, 'hash']].itertuples(index=False, name=None))
    pending = [run for run in runs if (run.model, run.repeat, run.hash) not in done]
    pending = [run for run in pending if not copy_from_other_study(run, repeat, folder)]
    console.print(f'{len(runs) - len(pending)} of {len(runs)} runs are finished', highlight=False)
    broken = unbuildable(pending)
    problems = [f'{model} cannot be built: {error}' for model, error in broken.items()]
    for problem in problems:
        console.print(problem, highlight=False, markup=False, soft_wrap=True)
    pending = [run for run in pending if run.model not in broken]
    columns = (TextColumn('{task.description}'), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, speed_estimate_period=3600) as progress, ThreadPoolExecutor(jobs) as pool:
        overall = progress.add_task('all runs', total=len(pending))

        def work(run: Run) -> dict:
            task = progress.add_task(f'{run.model}, {repeat} {run.repeat}', total=1)

            def on_progress(share: float, **options) -> None:
                progress.update(task, completed=share, **options)
                progress.update(overall, completed=sum(each.completed for each in progress.tasks if each.id != overall))

            try:
                return train_and_test(run, metric, tools, on_progress)
            finally:
                on_progress(1, visible=False)

        futures = {pool.submit(work, run): run for run in pending}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                run = futures[future]
                name = f'{run.model}, {repeat} {run.repeat}'
                try:
                    metrics = future.result()
                    record(run, metrics, study, folder)
                    left = progress.tasks[0].time_remaining
                    hours = f', about {left / 3600:.1f} h left' if left else ''
                    message = f'{name}: {metric} {metrics[metric]:.2f} after {metrics["minutes"]} minutes{hours}'
                except UserError as error:
                    message = f'{name} failed: {error}'
                    problems.append(message)
                console.print(f'{number}/{len(pending)} {message}', highlight=False, markup=False, soft_wrap=True)
        except BaseException:
            console.print('Stopped; the same command continues.')
            tools.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return problems


def time_models(runs: list[Run], study: dict, work_dir: Path, folder: Path) -> None:
    """Time one run of each model, interleaved, and write speed.csv."""
    models = {run.model: run for run in runs if run.repeat == runs[0].repeat}
    for run in models.values():
        run.write_config()
    out = work_dir / 'speed.json'
    shape = ['--shape', *study['shape']] if 'shape' in study else []
    configs = [run.config for run in models.values()]
    Tools().call(work_dir, lambda line: None, 'fps_benchmark.py', *configs, *shape, '--rounds', '20', '--out', out)
    timed = json.loads(out.read_text())
    rows = [
        dict(
            model=model, ms=result['time_ms']['median'], GMACs=result['macs_per_image'] / 1e9,
            parameters=result['parameters'] / 1e6, machine=hardware(timed['machine']),
            threads=timed['machine']['threads'],
        )
        for model, result in zip(models, timed['results'], strict=True)
    ]  # fmt: skip
    with atomic_path(folder / 'speed.csv') as path:
        pd.DataFrame(rows).round(3).to_csv(path, index=False)


def main() -> None:
    args = parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    name, study = load_study(args.study)
    folder, work_dir = args.results / name, args.work_dir / name
    docs = args.docs or (Path('docs/study.md') if study['folder'].samefile(STUDIES) else folder / 'README.md')
    problems = []
    if not args.report:
        runs = build_runs(study, args.cfg_options, work_dir)
        if args.time:
            time_models(runs, study, work_dir, folder)
        else:
            problems = run_study(runs, study, folder, args.jobs, console)
    if args.report or (folder / 'runs.csv').is_file():
        write_report(name, study, folder, docs)
        console.print(f'Wrote {docs}', soft_wrap=True, markup=False)
    if problems:
        raise UserError('; '.join(problems))


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    run_tool(main)
