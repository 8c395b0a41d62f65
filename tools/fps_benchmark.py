"""Time segmentors and classifiers against each other on synthetic images: no data set needed.

Every config is run by every backend in every dtype. All take turns in every round, so that a busy moment of the machine
hits them all, and are compared round by round. Rounds go on until the median time of each is known to --precision, with
95 % confidence, or --max-time is over. The machine's ceiling, dense matrix products of the networks' own shapes, is
measured in the same rounds.

Timed is the network's forward pass from a normalised batch on the device to raw outputs: of a segmentor the backbone,
neck and decode head on the whole image, without the final upsampling of the logits and without auxiliary heads; of a
classifier the backbone, neck and head. Parameters and multiply-adds are those of the same span.
"""

import argparse
import itertools
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from mmengine.config import DictAction
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from mmvittm.apis.cli import run_tool
from mmvittm.benchmark.backends import BACKENDS, DTYPES, Way
from mmvittm.benchmark.contender import Setup
from mmvittm.benchmark.machine import Machine
from mmvittm.benchmark.measurement import measure
from mmvittm.benchmark.plots import write_plots
from mmvittm.benchmark.report import growth, show, write_csv
from mmvittm.benchmark.statistics import Spread
from mmvittm.benchmark.sweep import SWEEPS, Sweep
from mmvittm.benchmark.timing import MIN_ROUNDS, TIMERS, Limits
from mmvittm.errors import UserError
from mmvittm.fileio import atomic_path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='configs; speeds are compared to the first')

    what = parser.add_argument_group('what is run')
    what.add_argument('--checkpoint', nargs='+', default=[], help='one per config; without, the weights are random')
    what.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='overrides of all configs')
    what.add_argument('--batch-size', type=positive_int, default=1, help='images per batch (default: 1)')
    what.add_argument(
        '--shape',
        type=positive_int,
        nargs='+',
        metavar=('H', 'W'),
        help="input size (default: each config's test size)",
    )
    what.add_argument('--whole-patches', action='store_true', help='round sizes down to whole patches of each backbone')
    what.add_argument('--backbone-only', action='store_true', help='run the backbones alone')
    what.add_argument('--train', action='store_true', help='a training step: forward and backward, no optimiser')
    what.add_argument('--parts', action='store_true', help='also time the parts of a pass (backend torch)')
    what.add_argument('--sweep', metavar='NAME=V,V,…', help=f'run it all for each value of: {", ".join(SWEEPS)}')

    how = parser.add_argument_group('how it is run')
    how.add_argument('--backend', nargs='+', default=['torch'], metavar='B', help=f'of: {", ".join(BACKENDS)}')
    how.add_argument('--dtype', nargs='+', default=['fp32'], metavar='D', help=f'of: {", ".join(DTYPES)}')
    how.add_argument('--half-weights', action='store_true', help='cast the weights of PyTorch instead of autocasting')
    how.add_argument('--channels-last', action='store_true', help='lay images and weights of PyTorch out so')
    how.add_argument('--cuda-graph', action='store_true', help='replay a captured CUDA graph (never tried on a GPU)')
    how.add_argument('--threads', type=positive_int, help="CPU threads (default: the backend's choice)")
    how.add_argument('--device', choices=sorted(TIMERS), default='cpu', help='(default: cpu)')

    method = parser.add_argument_group('how it is measured')
    method.add_argument('--precision', type=float, default=2.0, metavar='%', help='of every median (default: 2 %%)')
    method.add_argument('--max-time', type=float, default=60.0, metavar='S', help='seconds of rounds (default: 60)')
    method.add_argument('--rounds', type=positive_int, help=f'most rounds; precise is nobody before {MIN_ROUNDS}')
    method.add_argument('--warmup', type=int, default=20, help='most untimed passes until times settle (default: 20)')
    method.add_argument('--seed', type=int, default=0, help='of the order within the rounds (default: 0)')

    output = parser.add_argument_group('output')
    output.add_argument('--out', type=Path, metavar='JSON', help='all of it, every single time included')
    output.add_argument('--out-dir', type=Path, metavar='DIR', help='results.json, results.csv and plots')
    output.add_argument('--miou', type=float, nargs='+', default=[], help='one per config, shown against FPS')
    return parser.parse_args()


def positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'must be a whole number above 0, not {text!r}')
    return int(text)


def check_args(args: argparse.Namespace) -> None:
    for name, given in (('checkpoints', args.checkpoint), ('values of --miou', args.miou)):
        if given and len(given) != len(args.configs):
            raise UserError(f'{len(given)} {name} for {len(args.configs)} configs: give one for each config or none')
    if args.shape and len(args.shape) > 2:
        raise UserError(f'--shape takes H or H W, not {len(args.shape)} numbers')
    if args.warmup < 0:
        raise UserError(f'--warmup must be 0 or more, not {args.warmup}')
    for name in ('precision', 'max_time'):
        if not getattr(args, name) >= 0:
            raise UserError(f'--{name.replace("_", "-")} must be 0 or more, not {getattr(args, name)}')
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: torch sees no GPU here, use --device cpu')
    if args.parts and (
        args.train or not any(name in BACKENDS and BACKENDS[name].runs_modules for name in args.backend)
    ):
        raise UserError('--parts looks into a forward pass of the backend torch: use it with that, without --train')


def all_ways(args: argparse.Namespace) -> list[Way]:
    """Every backend in every dtype; half weights and the like go to those that have them, if any of them has."""
    wanted = [name for name in ('half_weights', 'channels_last', 'cuda_graph') if getattr(args, name)]
    pairs = list(itertools.product(dict.fromkeys(args.backend), dict.fromkeys(args.dtype)))
    ways = [Way(*pair, train=args.train, device=args.device, threads=args.threads) for pair in pairs]
    for way in ways:
        way.check()
    for name in wanted:
        having = [way.has(name) for way in ways]
        # where nobody has it, the check says why
        ways = [
            replace(way, **{name: True}) if has or not any(having) else way
            for way, has in zip(ways, having, strict=True)
        ]
    for way in ways:
        way.check()
    return ways


class Display(Progress):
    """A bar that shows how well the medians are known so far."""

    def __init__(self, limits: Limits, judged: int) -> None:
        columns = (TextColumn('{task.description}'), BarColumn(), TextColumn('{task.fields[reached]}'))
        super().__init__(*columns, TimeElapsedColumn(), console=Console(stderr=True))
        self.limits, self.judged = limits, judged
        self.task = self.add_task('', total=1, reached='')

    def step(self, prefix: str) -> Callable[[str], None]:
        return lambda description: self.update(
            self.task, description=f'{prefix}{description}', completed=0, reached='', refresh=True
        )

    def round(self, seconds: float, times: list[list[float]]) -> None:
        rounds = len(times[0])
        done = seconds / self.limits.max_time if self.limits.max_time else 1
        if self.limits.rounds:
            done = max(done, rounds / self.limits.rounds)
        worst = max(Spread.of(own).precision for own in times[: self.judged])
        reached = f'round {rounds}: ±{worst:.1%}, wanted {self.limits.precision:.1%}'
        self.update(self.task, completed=done, reached=reached)


def run(args: argparse.Namespace) -> dict:
    """Measure all that was asked for; the report as it goes to JSON."""
    ways = all_ways(args)
    sweep = Sweep.parse(args.sweep) if args.sweep else None
    checkpoints = args.checkpoint or [None] * len(args.configs)
    mious = dict(zip(args.configs, args.miou, strict=False))
    setups = [
        Setup(
            config,
            checkpoint,
            args.cfg_options,
            (args.shape[0], args.shape[-1]) if args.shape else None,
            args.whole_patches,
            args.batch_size,
            args.backbone_only,
        )
        for config, checkpoint in zip(args.configs, checkpoints, strict=True)
    ]
    limits = Limits(args.precision / 100, args.max_time, args.rounds, args.warmup)
    runs, rows = [], []
    with Display(limits, len(setups) * len(ways)) as display:
        for value in sweep.values if sweep else [None]:
            own = sweep.setups(setups, value) if sweep else setups
            prefix = f'{sweep.name} {value}: ' if sweep else ''
            done = measure(own, ways, limits, args.seed, args.parts, display.round, display.step(prefix))
            for row, contender in zip(done.rows, done.contenders, strict=True):
                row['swept'] = sweep.describe(value, contender.subject) if sweep else None
                row['miou'] = mious.get(row['config'])
            runs.append(dict(swept=value) | done.as_dict())
            rows += done.rows
    packages = dict.fromkeys(package for way in ways for package in BACKENDS[way.backend].packages)
    return dict(
        machine=Machine.current(args.device, packages).as_dict(),
        settings={name: value for name, value in vars(args).items() if not isinstance(value, Path)},
        runs=runs,
        results=rows,
        growth=list(growth(rows)) if sweep else [],
    )


def main() -> None:
    args = parse_args()
    check_args(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    with ExitStack() as stack:
        # opened before the work, so that an unwritable place is not found after it
        places = [args.out] if args.out else []
        places += [args.out_dir / 'results.json'] if args.out_dir else []
        files = [stack.enter_context(atomic_path(place)) for place in places]
        report = run(args)
        for file in files:
            file.write_text(json.dumps(report, indent=1) + '\n')
    console = Console()
    console = console if console.is_terminal else Console(width=160)
    show(report, console)
    if args.out_dir:
        write_csv(report['results'], args.out_dir / 'results.csv')
        pictures = [path.name for path in write_plots(report, args.out_dir)]
        console.print(f'{args.out_dir}: results.json, results.csv, {", ".join(pictures)}', soft_wrap=True)


if __name__ == '__main__':
    run_tool(main)
