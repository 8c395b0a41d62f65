"""Time segmentors and classifiers against each other on synthetic images: no data set needed.

The configs take turns in every round, so that a busy moment of the machine hits them all, and are compared round by
round. Timed is the network's forward pass from a normalised batch on the device to raw outputs: of a segmentor the
backbone, neck and decode head on the whole image, without the final upsampling of the logits and without auxiliary
heads; of a classifier the backbone, neck and head. Parameters and multiply-adds are those of the same span.
"""

import argparse
import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table
from torch import Tensor, nn

from mmvittm.errors import UserError
from mmvittm.utils.benchmark import (
    TIMERS,
    Machine,
    Spread,
    eager,
    inference_network,
    round_orders,
    speed_ratios,
    time_interleaved,
)
from mmvittm.utils.checkpoint import load_weights
from mmvittm.utils.cli import run_tool
from mmvittm.utils.complexity import count_macs, count_parameters
from mmvittm.utils.config import build_model, input_size, load_config
from mmvittm.utils.files import atomic_path


@dataclass
class Contender:
    """A network ready to be timed on its batch."""

    config: str
    checkpoint: str | None
    network: nn.Module
    images: Tensor
    macs_per_image: float


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='configs; speeds are compared to the first')
    parser.add_argument('--checkpoint', nargs='+', default=[], help='one per config; without, the weights are random')
    parser.add_argument('--batch-size', type=positive_int, default=1, help='images per batch (default: 1)')
    parser.add_argument(
        '--shape',
        type=positive_int,
        nargs='+',
        metavar=('H', 'W'),
        help="input size (default: each config's test size)",
    )
    parser.add_argument('--backbone-only', action='store_true', help='time the backbones alone')
    parser.add_argument('--rounds', type=positive_int, default=20, help='timed passes per config (default: 20)')
    parser.add_argument('--warmup', type=int, default=3, help='untimed passes per config before (default: 3)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the order within the rounds (default: 0)')
    parser.add_argument('--threads', type=positive_int, help="CPU threads (default: torch's choice)")
    parser.add_argument('--device', choices=sorted(TIMERS), default='cpu', help='(default: cpu)')
    parser.add_argument('--out', type=Path, help='write all of it, every single time included, to this JSON file')
    return parser.parse_args()


def positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'must be a whole number above 0, not {text!r}')
    return int(text)


def check_args(args: argparse.Namespace) -> None:
    if args.checkpoint and len(args.checkpoint) != len(args.configs):
        raise UserError(
            f'{len(args.checkpoint)} checkpoints for {len(args.configs)} configs: give one for each config or none'
        )
    if args.shape and len(args.shape) > 2:
        raise UserError(f'--shape takes H or H W, not {len(args.shape)} numbers')
    if args.warmup < 0:
        raise UserError(f'--warmup must be 0 or more, not {args.warmup}')
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: torch sees no GPU here, use --device cpu')


def prepare(config: str, checkpoint: str | None, args: argparse.Namespace) -> Contender:
    cfg = load_config(config)
    height, width = (args.shape[0], args.shape[-1]) if args.shape else input_size(cfg)
    model = build_model(cfg)
    if checkpoint:
        load_weights(model, checkpoint)
    network = inference_network(model, args.backbone_only).to(args.device)
    channels = cfg.model.get('backbone', {}).get('in_channels', 3)
    images = torch.randn(args.batch_size, channels, height, width, device=args.device)
    try:
        macs = count_macs(network, images[:1])
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise UserError(f'config {config} does not run on images of {height}×{width}: {reason}') from error
    return Contender(config, checkpoint, network, images, macs)


def time_all(contenders: list[Contender], orders: list[list[int]], args: argparse.Namespace, progress: Progress):
    task = progress.add_task('timing', total=len(contenders) * (args.warmup + args.rounds))
    runs = [eager(contender.network, contender.images) for contender in contenders]
    return time_interleaved(runs, orders, args.warmup, TIMERS[args.device], lambda: progress.advance(task))


def summarize(contender: Contender, times: list[float], reference: list[float]) -> dict:
    """One row of the results, as it goes to JSON."""
    time = Spread.of(times)
    return dict(
        config=contender.config,
        checkpoint=contender.checkpoint,
        random_weights=contender.checkpoint is None,
        measures=contender.network.measures,
        shape=list(contender.images.shape),
        parameters=count_parameters(contender.network),
        macs_per_image=contender.macs_per_image,
        time_ms=asdict(time),
        fps=len(contender.images) * 1e3 / time.median,
        speed_ratio=asdict(Spread.of(speed_ratios(reference, times))),
        times_ms=times,
    )


def show(report: dict, console: Console) -> None:
    machine, results = report['machine'], report['results']
    console.print(f'{machine["device"]}: {machine["gpu"] or machine["cpu"]}, {machine["threads"]} CPU threads')
    console.print(', '.join(f'{name} {version}' for name, version in machine['versions'].items()))
    for measures in dict.fromkeys(result['measures'] for result in results):
        console.print(f'timed: {measures}')
    if any(result['random_weights'] for result in results):
        console.print('[yellow]random weights: these are the speeds of architectures, not of trained models')

    table = Table(caption='p10–p90 in brackets; the ratio is the median of the ratios of FPS in each round')
    table.add_column('config', overflow='fold')
    table.add_column('weights', overflow='fold')
    for column in ('batch', 'params (M)', 'GMACs/image', 'ms/batch', 'FPS', '× first'):
        table.add_column(column, justify='right', no_wrap=True)
    for result in results:
        batch, _, height, width = result['shape']
        time, ratio = result['time_ms'], result['speed_ratio']
        table.add_row(
            Path(result['config']).stem,
            'random' if result['random_weights'] else Path(result['checkpoint']).name,
            f'{batch} × {height}×{width}',
            f'{result["parameters"] / 1e6:.2f}',
            f'{result["macs_per_image"] / 1e9:.4g}',
            f'{time["median"]:.2f} [{time["p10"]:.2f}–{time["p90"]:.2f}]',
            f'{result["fps"]:.2f}',
            f'{ratio["median"]:.3g} [{ratio["p10"]:.3g}–{ratio["p90"]:.3g}]',
        )
    console.print(table)


def main() -> None:
    args = parse_args()
    check_args(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    orders = list(round_orders(len(args.configs), args.rounds, args.seed))
    # opened before the work, so that an unwritable place is not found after it
    with atomic_path(args.out) if args.out else nullcontext() as out:
        columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            checkpoints = args.checkpoint or [None] * len(args.configs)
            pairs = progress.track(list(zip(args.configs, checkpoints, strict=True)), description='building')
            contenders = [prepare(config, checkpoint, args) for config, checkpoint in pairs]
            times = time_all(contenders, orders, args, progress)
        report = dict(
            machine=Machine.current(args.device).as_dict(),
            settings=dict(batch_size=args.batch_size, rounds=args.rounds, warmup=args.warmup, seed=args.seed),
            orders=orders,
            results=[summarize(contender, own, times[0]) for contender, own in zip(contenders, times, strict=True)],
        )
        if out:
            out.write_text(json.dumps(report, indent=1) + '\n')
    console = Console()
    show(report, console if console.is_terminal else Console(width=140))


if __name__ == '__main__':
    run_tool(main)
