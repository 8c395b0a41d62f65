"""Measure time and memory of scenes of growing size, and write the table and the plot of docs/high-resolution.md.

scene_benchmark.yaml lists the rows, the most important first. Each row runs in its own process with limits of time and
memory. A measured row is kept: stop and restart the tool at any time. With --rounds, rows are measured again after all
others, and the table shows medians. After a row that does not finish, larger sizes of the same model are not tried.
Times need an idle machine; memory does not (--memory-only).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import rasterio
import torch
from mmengine.fileio import load
from pages import markdown, write_section
from PIL import Image

from mmvittm.apis.cli import positive_int, run_tool
from mmvittm.apis.config import build_model, load_config
from mmvittm.benchmark.machine import describe_machine, hardware_slug
from mmvittm.benchmark.profiling import peak_memory
from mmvittm.errors import UserError
from mmvittm.fileio import atomic_path
from mmvittm.scenes import predict_scene
from mmvittm.scenes.inputs import label_map, read_normalized
from mmvittm.scenes.rasters import Window, open_raster, write_labels

PLAN = load(Path(__file__).with_suffix('.yaml'))
PALETTE = [(40 * index,) * 3 for index in range(6)]
KEY = ['model', 'mode', 'size']
COLUMNS = [*KEY, 'config', 'threads', 'status', 'seconds', 'runs', 'peak_gb', 'taken_gb', 'machine', 'torch',
           'version', 'date']  # fmt: skip
TILE = 1024  # pixels; scenes repeat a tile
REPEATS, REPEATED_BELOW = 3, 20  # runs of a row that takes less than so many seconds
LINEAR_FROM = 4096


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', metavar='MODEL', help='models to measure (default: all)')
    parser.add_argument('--max-size', type=int, default=1 << 15, help='largest side in pixels (default: %(default)s)')
    parser.add_argument('--rounds', type=positive_int, default=1, help='times that each row is measured (default: 1)')
    parser.add_argument('--minutes', type=float, default=np.inf, help='start no row after this time')
    parser.add_argument('--limit', type=float, default=10, help='minutes per row (default: %(default)s)')
    parser.add_argument('--memory', type=float, default=16, help='GB of data per row (default: %(default)s)')
    parser.add_argument('--threads', type=int, default=2, help='CPU threads (default: 2)')
    parser.add_argument('--memory-only', action='store_true', help='write no times: the machine is not idle')
    parser.add_argument('--scenes', type=Path, default=Path('work_dirs/scenes'), help='folder of scenes (up to 5 GB)')
    parser.add_argument('--out', type=Path, help='results file (default: in results/scenes, named by the machine)')
    parser.add_argument('--doc', type=Path, default=Path('docs/high-resolution.md'), help='page to write')
    parser.add_argument('--render', type=Path, metavar='CSV', help='write table and plot of CSV without measuring')
    parser.add_argument('--row', type=json.loads, help=argparse.SUPPRESS)  # what a child process measures
    return parser.parse_args()


# --- a row, in its own process ---------------------------------------------------------------------------------------


def predict_whole(model: torch.nn.Module, image: Path, labels: Path) -> None:
    """Run the model as it is on the whole image."""
    with open_raster(image) as raster, torch.inference_mode():
        window = Window(0, 0, *raster.size)
        pixels = read_normalized(model, raster, window)
        logits = model.encode_decode(pixels, [dict(img_shape=pixels.shape[2:])])
        with write_labels(labels, raster, PALETTE) as writer:
            writer.write(label_map(logits), window)


MODES = dict(
    chunked=lambda *args: predict_scene(*args, PALETTE, mode='whole'),
    slide=lambda *args: predict_scene(*args, PALETTE, mode='slide'),
    whole=predict_whole,
)


def measure(row: dict) -> dict:
    """Run a row in this process, more than once if it is short; return its numbers, or why there are none."""
    torch.set_num_threads(row['threads'])
    predict, model = MODES[row['mode']], build_model(load_config(row['config'], dict(default_scope='mmseg'))).eval()
    labels = Path(row['image']).with_name('labels.tif')
    predict(model, Path(row['warm_up']), labels)
    seconds: list[float] = []

    def run() -> None:
        start = time.perf_counter()
        predict(model, Path(row['image']), labels)
        seconds.append(time.perf_counter() - start)

    limit = int(row['memory'] * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        taken = peak_memory(run)
        while len(seconds) < REPEATS and seconds[0] < REPEATED_BELOW and not row['memory_only']:
            run()
    except (MemoryError, RuntimeError) as error:
        if 'alloc' not in str(error) and not isinstance(error, MemoryError):
            raise
        return dict(status='memory limit')
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    numbers = dict(status='done', peak_gb=peak / 1e9, taken_gb=taken and taken / 1e9)
    if not row['memory_only']:
        numbers |= dict(seconds=median(seconds), runs=len(seconds))
    return numbers | dict(machine=describe_machine('cpu'))


# --- all rows --------------------------------------------------------------------------------------------------------


def make_scene(folder: Path, size: int) -> Path:
    """Write a smooth scene of ``size × size`` pixels as an uncompressed TIFF, unless it exists."""
    path = folder / f'{size}.tif'
    if path.exists():
        return path
    coarse = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    tile = np.asarray(Image.fromarray(coarse).resize((TILE, TILE), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    profile = dict(driver='GTiff', width=size, height=size, count=3, dtype='uint8', photometric='RGB',
                   tiled=True, blockxsize=256, blockysize=256, bigtiff='if_safer')  # fmt: skip
    with atomic_path(path) as temporary, rasterio.open(temporary, 'w', **profile) as file:
        for top in range(0, size, TILE):
            for left in range(0, size, TILE):
                height, width = min(TILE, size - top), min(TILE, size - left)
                file.write(tile[:, :height, :width], window=rasterio.windows.Window(left, top, width, height))
    return path


def run_row(row: dict, args: argparse.Namespace) -> dict:
    """Measure a row in a process of its own."""
    paths = dict(image=str(make_scene(args.scenes, row['size'])), warm_up=str(make_scene(args.scenes, 512)))
    limits = dict(memory=args.memory, threads=args.threads, memory_only=args.memory_only)
    command = [sys.executable, __file__, '--row', json.dumps(row | paths | limits)]
    try:
        done = subprocess.run(command, capture_output=True, encoding='utf-8', timeout=args.limit * 60, check=False)
    except subprocess.TimeoutExpired:
        return dict(status='time limit')
    if done.returncode:
        (args.scenes / 'error.log').write_text(done.stderr)
        raise UserError(f'{row["model"]}, {row["mode"]}, {row["size"]} pixels failed: see {args.scenes}/error.log')
    return json.loads(done.stdout.splitlines()[-1])


def planned(args: argparse.Namespace) -> list[dict]:
    """List the rows in order of priority."""
    rows = [dict(entry, size=size) for entry in PLAN for size in entry['sizes'] if size <= args.max_size]
    for row in rows:
        del row['sizes']
    if unknown := set(args.only or ()) - {row['model'] for row in rows}:
        raise UserError(f'no model {", ".join(sorted(unknown))} in {Path(__file__).with_suffix(".yaml").name}')
    return [row for row in rows if not args.only or row['model'] in args.only]


def is_settled(row: dict, frame: pd.DataFrame, memory_only: bool, rounds: int = 1) -> bool:
    """Tell whether a row is measured in so many rounds, or it or a smaller size of the same did not finish."""
    own = frame[(frame.model == row['model']) & (frame['mode'] == row['mode'])]
    same = own[own['size'] == row['size']]
    measured = len(same) if memory_only else same.seconds.notna().sum()
    return bool(measured >= rounds or (own.status.ne('done') & (own['size'] <= row['size'])).any())


def read_results(path: Path) -> pd.DataFrame:
    return pd.read_csv(path).reindex(columns=COLUMNS)


def results_path() -> Path:
    return Path(f'results/scenes/scenes-cpu-{hardware_slug(describe_machine("cpu"))}.csv')


def measure_all(args: argparse.Namespace) -> Path:
    """Measure the rows that are missing in the results file."""
    out, start = args.out or results_path(), time.monotonic()
    frame = read_results(out) if out.is_file() else pd.DataFrame(columns=COLUMNS)
    for done, row in product(range(args.rounds), planned(args)):
        if is_settled(row, frame, args.memory_only, done + 1):
            continue
        if time.monotonic() - start > args.minutes * 60:
            print('The time is up; run the tool again for the other rows.')
            break
        numbers = run_row(row, args)
        machine = numbers.pop('machine', {})
        versions = machine.get('versions', {})
        source = dict(version=versions.get('mmvittm'), torch=versions.get('torch'), date=machine.get('date'),
                      machine=machine.get('cpu'))  # fmt: skip
        kept = frame[(frame[KEY] != [row[key] for key in KEY]).any(axis=1) | frame.seconds.notna()]
        line = pd.DataFrame([row | dict(threads=args.threads) | numbers | source]).reindex(columns=COLUMNS)
        frame = line if kept.empty else pd.concat([kept, line])
        with atomic_path(out) as file:
            frame.to_csv(file, index=False, float_format='%.4g')
        values = (f'{value:.3g}' if isinstance(value, float) else value for value in (row | numbers).values())
        print(*values, flush=True)
    return out


# --- the page --------------------------------------------------------------------------------------------------------


def cell(row: pd.Series) -> str:
    """Seconds and their range over rounds, seconds per megapixel and peak memory, or why there are none."""
    if row.status != 'done':
        return f'– ({row.status})'
    if pd.isna(row.seconds):
        return f'{row.peak_gb:.2g} GB'
    spread = f' ({row.fastest:.3g}–{row.slowest:.3g})' if row.fastest < row.slowest else ''
    return f'{row.seconds:.3g} s{spread}, {row.seconds / megapixels(row["size"]):.2g} s/MP, {row.peak_gb:.2g} GB'


def megapixels(size: int) -> float:
    return size**2 / 1e6


def nonlinearity(rows: pd.DataFrame) -> str:
    """Largest deviation of the seconds per megapixel from their mean, from 4k² on."""
    rows = rows[(rows['size'] >= LINEAR_FROM) & rows.seconds.notna()]
    rates = rows.seconds / megapixels(rows['size'])
    return '–' if len(rates) < 2 else f'{100 * (rates / rates.mean() - 1).abs().max():.0f} %'


def table(frame: pd.DataFrame) -> str:
    """One line per model and mode, one column per size."""
    sizes = sorted(frame['size'].unique())
    lines = []
    for (model, mode), rows in frame.groupby(['model', 'mode'], sort=False):
        measured = {row['size']: cell(row) for _, row in rows.iterrows()}
        cells = {f'{size}²': measured.get(size, '') for size in sizes}
        lines.append(dict(model=model, mode=mode) | cells | {'off linear': nonlinearity(rows)})
    return markdown(pd.DataFrame(lines))


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Draw seconds and peak memory against megapixels, as far as they are measured."""
    labels = dict(seconds='seconds', peak_gb='peak memory, GB')
    columns = list(labels) if frame.seconds.notna().any() else ['peak_gb']
    figure, axes = plt.subplots(1, len(columns), figsize=(6 * len(columns), 5), layout='constrained', squeeze=False)
    for axis, column in zip(axes[0], columns, strict=True):
        for (model, mode), rows in frame[frame[column].notna()].groupby(['model', 'mode'], sort=False):
            rows = rows.sort_values('size')
            axis.plot(megapixels(rows['size']), rows[column], 'o-', label=f'{model}, {mode}')
        axis.set(xscale='log', yscale='log', xlabel='megapixels', ylabel=labels[column])
        axis.grid(visible=True, which='both', alpha=0.3)
        axis.legend(handles=axis.get_lines(), fontsize='x-small')
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)


def summarize(frame: pd.DataFrame) -> pd.DataFrame:
    """Reduce the rounds of each row to one line: median and range of the seconds, the largest peak."""
    return frame.groupby(KEY, sort=False, as_index=False).agg(
        status=('status', 'first'),
        seconds=('seconds', 'median'),
        fastest=('seconds', 'min'),
        slowest=('seconds', 'max'),
        peak_gb=('peak_gb', 'max'),
        threads=('threads', 'max'),
    )


def render(source: Path, doc: Path) -> None:
    """Write the plot, and the table between the markers of the page."""
    frame = summarize(read_results(source))
    draw(frame, doc.parent / 'images' / 'scenes.png')
    relative = os.path.relpath(source, doc.parent)
    origin = f'From [{source.name}]({relative}), {frame.threads.max()} OpenMP threads at most.'
    text = f'{table(frame)}\n\n{origin}\n\n![seconds and memory against megapixels](images/scenes.png)'
    write_section(doc, f'\n{text}\n')


def main() -> None:
    args = parse_args()
    if args.row:
        print(json.dumps(measure(args.row)))
        return
    if args.memory_only and args.rounds > 1:
        raise UserError('--rounds repeats times, and --memory-only measures none: leave one of them out')
    if args.render and not args.render.is_file():
        raise UserError(f'results file not found: {args.render}')
    source = args.render or measure_all(args)
    render(source, args.doc)
    print(f'Wrote {args.doc} from {source}')


if __name__ == '__main__':
    run_tool(main)
