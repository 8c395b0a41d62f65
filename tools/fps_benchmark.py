"""Compare the speed of segmentors and classifiers on random images; no data set needed.

Every config runs in every run mode. All of these are timed once per round, in shuffled order, so that a disturbance of
the machine hits them alike, and compared round by round. Rounds continue until the 95 % confidence interval of every
median is within --precision, or until --max-time. The largest GEMMs of the networks are timed in the same rounds: they
show the ceiling of the machine.

Timing, parameters and multiply-adds cover the forward pass from a normalised batch to raw outputs: backbone, neck and
head, without auxiliary heads and without the final upsampling of a segmentor's logits.
"""

import argparse
import json
import sys
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import torch
from rich.console import Console

from mmvittm.apis.cli import CfgOptions, positive_int, run_tool
from mmvittm.apis.config import load_config
from mmvittm.benchmark.machine import describe_machine
from mmvittm.benchmark.measurement import build_candidate, measure
from mmvittm.benchmark.modes import BACKENDS, DTYPES, OPTIONS, run_modes
from mmvittm.benchmark.report import growth, show, to_frame, write_plots
from mmvittm.benchmark.timing import MIN_ROUNDS
from mmvittm.errors import UserError
from mmvittm.fileio import atomic_path

MAX_THREADS = 1024  # OpenMP crashes with many more

#: Settings that can be swept, and the unit of the size that latency is plotted against.
SWEEPS = {'shape': 'pixels', 'batch-size': 'images', 'memory-patch': 'pixels of patch side'}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='configs; speeds are relative to the first')

    model = parser.add_argument_group('model and input')
    model.add_argument('--checkpoint', nargs='+', default=[], help='one per config (default: random weights)')
    model.add_argument('--cfg-options', nargs='+', action=CfgOptions, default={}, help='overrides for all configs')
    model.add_argument('--batch-size', type=positive_int, help='images per batch (default: 1)')
    shape_help = "H or H W (default: the config's input size)"
    model.add_argument('--shape', type=positive_int, nargs='+', metavar='H', help=shape_help)
    model.add_argument('--whole-patches', action='store_true', help='round the size down to whole patches per config')
    model.add_argument('--backbone-only', action='store_true', help='run backbones without neck and head')
    model.add_argument('--train', action='store_true', help='run training steps: forward and backward, no optimizer')
    model.add_argument('--parts', action='store_true', help='also report time by stage (backend torch only)')
    model.add_argument('--sweep', type=sweep, metavar='NAME=V,V,…', help=f'repeat for values of {", ".join(SWEEPS)}')

    mode = parser.add_argument_group('run modes')
    mode.add_argument('--backend', nargs='+', choices=list(BACKENDS), default=['torch'], help='(default: torch)')
    mode.add_argument(
        '--dtype', nargs='+', choices=list(DTYPES), default=['fp32'], help='for every backend; fp32 by default'
    )
    modes_help = 'run modes instead of all pairs of --backend and --dtype; int8 is calibrated on the random images'
    pairs = [f'{backend}:{dtype}' for backend in BACKENDS for dtype in DTYPES]
    mode.add_argument('--modes', nargs='+', choices=pairs, metavar='BACKEND:DTYPE', help=modes_help)
    mode.add_argument('--half-weights', action='store_true', help='cast the weights instead of autocasting (PyTorch)')
    mode.add_argument('--channels-last', action='store_true', help='use the channels-last memory format (PyTorch)')
    mode.add_argument('--cuda-graph', action='store_true', help='replay a CUDA graph (not yet tried on a GPU)')
    mode.add_argument('--threads', type=positive_int, help="CPU threads (default: the backend's choice)")
    mode.add_argument('--device', choices=('cpu', 'cuda'), default='cpu', help='(default: cpu)')

    method = parser.add_argument_group('measurement')
    method.add_argument('--precision', type=float, default=2.0, metavar='%', help='of all medians (default: 2 %%)')
    method.add_argument('--max-time', type=float, default=60.0, metavar='S', help='seconds of rounds (default: 60)')
    rounds_help = f'maximum number of rounds; precision is judged from round {MIN_ROUNDS}'
    method.add_argument('--rounds', type=positive_int, metavar='N', help=rounds_help)
    method.add_argument('--warmup', type=int, default=20, help='maximum number of untimed passes (default: 20)')
    method.add_argument('--seed', type=int, default=0, help='seed of weights, images and orders (default: 0)')

    output = parser.add_argument_group('output')
    output.add_argument('--out', type=Path, metavar='JSON', help='results with every single time')
    output.add_argument('--out-dir', type=Path, metavar='DIR', help='folder for results.json, results.csv and plots')
    return parser.parse_args()


def sweep(text: str) -> tuple[str, list[int]]:
    """Parse ``name=value,value,…``."""
    name, _, listed = text.partition('=')
    if name not in SWEEPS:
        raise argparse.ArgumentTypeError(f'cannot sweep {name!r}: choose one of {", ".join(SWEEPS)}')
    values = [positive_int(value) for value in listed.split(',')]
    if len(set(values)) < max(len(values), 2):
        raise argparse.ArgumentTypeError(f'give two or more different values, not {listed!r}')
    return name, values


def has_memory_patch(config: str) -> bool:
    model = load_config(config).get('model') or {}
    return 'patch_size' in model.get('backbone', {}).get('memory_embed', {})


def check_args(args: argparse.Namespace) -> None:
    if args.checkpoint and len(args.checkpoint) != len(args.configs):
        given = f'{len(args.checkpoint)} checkpoints for {len(args.configs)} configs'
        raise UserError(f'{given}: give one for each config or none')
    if args.shape and len(args.shape) > 2:
        raise UserError(f'--shape takes H or H W, not {len(args.shape)} numbers')
    for name in ('warmup', 'precision', 'max_time'):
        if not getattr(args, name) >= 0:
            raise UserError(f'--{name.replace("_", "-")} must be 0 or more, not {getattr(args, name)}')
    if args.threads and args.threads > MAX_THREADS:
        raise UserError(f'--threads must be at most {MAX_THREADS}, not {args.threads}')
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: torch finds no GPU, use --device cpu')
    swept = args.sweep and args.sweep[0]
    if swept in ('shape', 'batch-size') and getattr(args, swept.replace('-', '_')):
        raise UserError(f'--sweep {swept} sets --{swept}: leave that out')
    if swept == 'memory-patch' and not any(has_memory_patch(config) for config in args.configs):
        raise UserError('--sweep memory-patch: no config has a memory of patches')
    args.batch_size = args.batch_size or 1
    args.modes = [tuple(pair.split(':')) for pair in args.modes or ()] or list(product(args.backend, args.dtype))
    if args.parts and (args.train or not any(BACKENDS[backend].is_eager for backend, _ in args.modes)):
        raise UserError('--parts times a forward pass of the backend torch: use it with that backend, without --train')
    if args.parts and args.cuda_graph:
        raise UserError('--parts needs the calls of the modules, and --cuda-graph records them: leave one of them out')


def run(args: argparse.Namespace, console: Console) -> dict:
    """Measure; returns the report that goes to JSON."""
    common = dict(train=args.train, device=args.device)
    modes = run_modes(args.modes, [name for name in OPTIONS if getattr(args, name)], threads=args.threads, **common)
    models = list(zip(args.configs, args.checkpoint or [None] * len(args.configs), strict=True))
    names = ('cfg_options', 'shape', 'batch_size', 'whole_patches', 'backbone_only')
    settings = common | {name: getattr(args, name) for name in names}
    timing = {name: getattr(args, name) for name in ('max_time', 'rounds', 'warmup', 'seed')}
    swept, values = args.sweep or (None, [None])
    runs, rows = [], []
    with console.status('building') as status:
        for value in values:
            if swept:
                settings[swept.replace('-', '_')] = [value] if swept == 'shape' else value
            built = [build_candidate(*model, **settings) for model in models]
            if args.parts and any(getattr(m, 'memory_chunk', None) for each in built for m in each.network.modules()):
                raise UserError('--parts cannot tell reads from writes in chunks: set model.backbone.memory_chunk=None')
            candidates = [candidate.in_mode(mode) for mode in modes for candidate in built]
            prefix = f'{swept} {value}: ' if swept else ''
            on_step = lambda text, prefix=prefix: status.update(prefix + text)  # noqa: E731
            measured = measure(candidates, args.parts, precision=args.precision / 100, on_step=on_step, **timing)
            for row in measured.pop('rows'):
                if swept:
                    size = row['shape'][2] * row['shape'][3] if swept == 'shape' else value
                    row['swept'] = dict(name=swept, value=value, size=size, unit=SWEEPS[swept])
                rows.append(row)
            runs.append(dict(swept=value) | measured)
    packages = dict.fromkeys(package for mode in modes for package in BACKENDS[mode.backend].packages)
    return dict(
        machine=describe_machine(args.device, packages),
        settings={name: value for name, value in vars(args).items() if not isinstance(value, Path)},
        runs=runs,
        results=rows,
        growth=list(growth(to_frame(rows))) if swept else [],
    )


def main() -> None:
    args = parse_args()
    check_args(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    with ExitStack() as stack:
        # opened before the work, so that an unwritable folder is found at once
        paths = (args.out, args.out_dir and args.out_dir / 'results.json')
        files = [stack.enter_context(atomic_path(path)) for path in paths if path]
        report = run(args, Console(stderr=True))
        for file in files:
            file.write_text(json.dumps(report, indent=1) + '\n')
    console = Console(width=None if sys.stdout.isatty() else 220)
    frame = to_frame(report['results'])
    show(report, frame, console)
    if args.out_dir:
        with atomic_path(args.out_dir / 'results.csv') as path:
            frame.to_csv(path, index=False)
        plots = [path.name for path in write_plots(frame, args.out_dir)]
        print(f'{args.out_dir}: {", ".join(["results.json", "results.csv", *plots])}')


if __name__ == '__main__':
    run_tool(main)
