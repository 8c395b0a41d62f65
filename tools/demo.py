"""The whole way in one command: real data, training, test, a picture to look at, and speed against a ViT.

Runs the tools that you would run yourself, shows each command, and closes with a table.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from mmengine.runner import find_latest_checkpoint
from rich.console import Console
from rich.table import Table

from mmvittm.apis.cli import run_tool
from mmvittm.errors import UserError

CONFIG = 'configs/vittm/vittm-t_16-32_upernet_1xb8-demo_blue-marble-256x256.py'
BASELINE = 'configs/vit/vit-t16_upernet_1xb8-demo_blue-marble-256x256.py'
SPEED_ROWS = {
    'median ms': lambda model: f'{model["time_ms"]["median"]:.1f}',
    'FPS': lambda model: f'{model["fps"]:.1f}',
    'GMACs': lambda model: f'{model["macs_per_image"] / 1e9:.2f}',
    'speed, ViT = 1': lambda model: f'{model["speed_ratio"]["median"]:.2f}',
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'), help='where everything it makes goes')
    parser.add_argument('--iters', type=int, help="training iterations (default: the demo schedule's)")
    return parser.parse_args()


def run(console: Console, title: str, *command: str | Path) -> None:
    """Run one tool of this folder, shown as the user would type it."""
    words = [str(word) for word in command]
    console.rule(title, align='left')
    console.print(f'$ python {shlex.join(words)}', style='dim', soft_wrap=True, highlight=False)
    if subprocess.run([sys.executable, *words], check=False).returncode:
        raise UserError(f'the demo stopped at "{title}": see above')


def closing_table(metrics: dict[str, float], models: list[dict]) -> Table:
    """IoU by class, then the speed of both models."""
    table = Table(title='Blue Marble, 19 validation tiles', title_justify='left')
    table.add_column('')
    table.add_column('ViTTM-T 16/32', justify='right')
    table.add_column('ViT-T/16', justify='right')
    for name, value in metrics.items():
        if name.startswith('IoU.'):
            table.add_row(name.removeprefix('IoU.'), f'{value:.1f}', '–')
    table.add_row('mIoU (%)', f'{metrics["mIoU"]:.1f}', '–', style='bold', end_section=True)
    for label, cell in SPEED_ROWS.items():
        table.add_row(label, *(cell(model) for model in models))
    return table


def main() -> None:
    args = parse_args()
    start = time.monotonic()
    console = Console()
    predictions, picture, fps = (args.work_dir / name for name in ('predictions', 'predictions.png', 'fps.json'))
    iters = [] if args.iters is None else [f'train_cfg.max_iters={args.iters}']

    run(console, '1/5 Blue Marble: satellite images and climate zones', 'tools/dataset_converters/blue_marble.py')
    # the progress bar and the closing table take the place of the log lines
    options = ['--work-dir', args.work_dir, '--cfg-options', 'log_level=WARNING']
    run(console, '2/5 Train ViTTM-T', 'tools/train.py', CONFIG, *options, *iters)
    checkpoint = find_latest_checkpoint(str(args.work_dir))
    outputs = ['--out', predictions, *options]
    run(console, '3/5 Test it', 'tools/test.py', CONFIG, checkpoint, *outputs)
    run(console, '4/5 Draw its predictions', 'tools/prediction_grid.py', CONFIG, predictions, '--out', picture)
    run(
        console,
        '5/5 Measure its speed against a ViT',
        'tools/fps_benchmark.py',
        BASELINE,
        CONFIG,
        '--rounds',
        20,
        '--out',
        fps,
    )

    metrics = json.loads((predictions / 'metrics.json').read_text())
    vit, vittm = json.loads(fps.read_text())['results']
    console.rule('Done', align='left')
    console.print(closing_table(metrics, [vittm, vit]))
    console.print(f'Look at {picture}', soft_wrap=True)
    console.print(f'The demo took {(time.monotonic() - start) / 60:.1f} minutes.')


if __name__ == '__main__':
    run_tool(main)
