"""Measure everything docs/performance.md reports, and write its tables and plots and the README's table.

Each measurement is a call of tools/fps_benchmark.py in a process of its own; its results are kept in the output folder,
so that an interrupted run goes on. Under 30 minutes on two quiet cores; nothing else should run meanwhile.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from rich.console import Console

from mmvittm.apis.cli import run_tool
from mmvittm.benchmark.markdown import AGREEMENT, TARGETS, generated, pictures, renewed, speeds
from mmvittm.errors import UserError
from mmvittm.fileio import atomic_path

VIT, VITTM = 'configs/vit/vit-b16', 'configs/vittm/vittm-b_28-28'
CLASSIFIERS = [f'{VIT}_in21k-p-pre_16xb128-300e_in1k.py', f'{VITTM}_in21k-p-pre_16xb128-300e_in1k.py']
SEGMENTER = [f'{VIT}_segmenter_8xb2-160k_ade20k-512x512.py', f'{VITTM}_segmenter_8xb2-160k_ade20k-504x504.py']
UPERNET = [f'{VIT}_upernet_8xb2-160k_ade20k-512x512.py', f'{VITTM}_upernet_8xb2-160k_ade20k-504x504.py']
POOLED = 'configs/vittm/vittm-b_28-pooled-18_segmenter_8xb2-160k_ade20k-504x504.py'
TINY = [
    'configs/vit/vit-t16_upernet_1xb8-full_blue-marble-256x256.py',
    'configs/vittm/vittm-t_16-32_upernet_1xb8-full_blue-marble-256x256.py',
]
DOC, README = Path('docs/performance.md'), Path('README.md')
MAX_TIME = 25  # seconds of rounds, so that all of it stays under half an hour
HALF = ['--dtype', 'bf16', '--half-weights']
BACKBONE = [*SEGMENTER, '--backbone-only']
# A pass of ViT-B at 2048² takes one to two minutes, so it stops at 1280²; few rounds, whose intervals the table shows.
GROWTH = ['--backbone-only', '--whole-patches', '--warmup', 1, '--max-time', 120]
SIZES = 'shape=512,768,1024'

#: Name -> arguments of tools/fps_benchmark.py. TARGETS refer to the names.
MEASUREMENTS: dict[str, list] = {
    'classifier-b1-fp32': [*CLASSIFIERS],
    'classifier-b1-bf16': [*CLASSIFIERS, *HALF],
    'classifier-b8-fp32': [*CLASSIFIERS, '--batch-size', 8],
    'classifier-b8-bf16': [*CLASSIFIERS, '--batch-size', 8, *HALF],
    'backbone-fp32': [*BACKBONE, '--parts'],
    'backbone-bf16': [*BACKBONE, '--parts', *HALF],
    AGREEMENT: [*BACKBONE],
    'segmenter-backends': [
        *SEGMENTER, '--backend', 'torch', 'openvino', '--dtype', 'fp32', 'bf16', '--half-weights', '--parts'
    ],
    'backbone-openvino': [*BACKBONE, '--backend', 'openvino', '--dtype', 'fp32', 'bf16'],
    'upernet-fp32': [*UPERNET, '--parts'],
    'upernet-bf16': [*UPERNET, *HALF],
    'train-fp32': [*BACKBONE, '--train'],
    'train-bf16': [*BACKBONE, '--train', '--dtype', 'bf16'],
    'train-checkpointing': [BACKBONE[1], '--backbone-only', '--train', '--cfg-options', 'model.backbone.with_cp=True'],
    'train-segmenter': [*SEGMENTER, '--train'],
    'tiny-fp32': [*TINY],
    'growth-pooled': [SEGMENTER[1], POOLED, *GROWTH, '--rounds', 4, '--sweep', f'{SIZES},1536,2048'],
    'growth': [*SEGMENTER, *GROWTH, '--rounds', 2, '--sweep', f'{SIZES},1280'],
    # last, for torch.compile takes minutes to compile
    'segmenter-compile': [*SEGMENTER, '--backend', 'torch', 'compile', 'onnxruntime'],
}  # fmt: skip


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out-dir', type=Path, default=Path('work_dirs/performance'), help='(default: %(default)s)')
    parser.add_argument('--doc', type=Path, help='what to write the tables into (default: docs/performance.md)')
    parser.add_argument('--only', nargs='+', metavar='NAME', help=f'measure these again: {", ".join(MEASUREMENTS)}')
    parser.add_argument('--fresh', action='store_true', help='keep no earlier result')
    parser.add_argument('--threads', type=int, default=2, help='CPU threads (default: 2)')
    parser.add_argument('--quick', action='store_true', help='one round each, small sizes: to try the report itself')
    return parser.parse_args()


def check_args(args: argparse.Namespace) -> None:
    for name in args.only or []:
        if name not in MEASUREMENTS:
            raise UserError(f'unknown measurement {name!r}: choose one of {", ".join(MEASUREMENTS)}')
    if args.threads < 1:
        raise UserError(f'--threads must be a whole number above 0, not {args.threads}')
    if args.quick and not args.doc:
        args.doc = args.out_dir / 'performance.md'  # such numbers are not to be published
    args.doc = args.doc or DOC


def wanted(args: argparse.Namespace) -> Iterator[str]:
    """The measurements that are still to be made."""
    for name in MEASUREMENTS:
        chosen = not args.only or name in args.only
        if chosen and (args.only or args.fresh or not (args.out_dir / f'{name}.json').is_file()):
            yield name


def measure(name: str, args: argparse.Namespace, console: Console) -> bool:
    """Run one measurement; whether it went well. What it prints goes to a log beside its results."""
    words = [str(word) for word in (*MEASUREMENTS[name], '--threads', args.threads)]
    if '--max-time' not in words:
        words += ['--max-time', str(MAX_TIME)]
    if args.quick:
        words = ['shape=504,560' if word.startswith('shape=') else word for word in words]
        words += ['--rounds', '1', '--warmup', '0']
    command = ['tools/fps_benchmark.py', *words]
    console.print(f'$ python {shlex.join(command)}', style='dim', soft_wrap=True, highlight=False)
    start = time.monotonic()
    with (args.out_dir / f'{name}.log').open('w') as log:
        output = ['--out', str(args.out_dir / f'{name}.json')]
        done = subprocess.run([sys.executable, *command, *output], stdout=log, stderr=log, check=False)
    console.print(f'  {"done" if not done.returncode else "FAILED"} in {time.monotonic() - start:.0f} s: {log.name}')
    return not done.returncode


def kept(args: argparse.Namespace) -> dict[str, dict]:
    """All results there are, those of earlier runs included."""
    paths = {name: args.out_dir / f'{name}.json' for name in MEASUREMENTS}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.is_file()}


def tables_and_plots(reports: dict[str, dict], doc: Path) -> str:
    """What stands in ``doc``; its pictures are drawn beside it."""
    images = doc.parent / 'images'
    images.mkdir(exist_ok=True)
    return generated(reports, list(pictures(reports, images)))


def main() -> None:
    args = parse_args()
    check_args(args)
    console = Console()
    names = list(wanted(args))
    texts = {args.doc: partial(tables_and_plots, doc=args.doc)}
    if args.doc == DOC:
        texts[README] = speeds
    with ExitStack() as stack:
        # opened before the work: an unwritable place is found now
        files = {page: stack.enter_context(atomic_path(page)) for page in texts}
        try:
            args.out_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f'cannot write {args.out_dir}: {error.strerror}, choose another --out-dir') from error
        failed = []
        for index, name in enumerate(names, 1):
            console.rule(f'{index}/{len(names)} {name}', align='left')
            if not measure(name, args, console):
                failed.append(name)
        reports = kept(args)
        for page, text in texts.items():
            old = page.read_text() if page.is_file() else '# Performance\n'
            files[page].write_text(renewed(old, text(reports)))
    console.print(f'{args.doc} has {len(reports)} of {len(MEASUREMENTS)} measurements and {len(TARGETS)} targets')
    if failed:
        raise UserError(f'these measurements failed: {", ".join(failed)}, see the logs in {args.out_dir}')


if __name__ == '__main__':
    run_tool(main)
