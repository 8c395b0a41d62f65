"""The complete workflow in one command: real data, three models trained and tested alike, predictions, a table.

Trains ViTTM-T 16/32 and two ViTs alike by running the tools that you would run yourself, and shows each command.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from mmengine.runner import find_latest_checkpoint
from rich.console import Console
from rich.table import Table

import mmvittm
from mmvittm.apis.cli import run_tool
from mmvittm.errors import UserError

MODELS = {
    'ViTTM-T 16/32, focused attention': 'vittm/vittm-t_16-32-focused-r4_upernet_1xb8-demo_blue-marble-256x256.py',
    'ViT-T/32': 'vit/vit-t32_upernet_1xb8-demo_blue-marble-256x256.py',
    'ViT-T/16': 'vit/vit-t16_upernet_1xb8-demo_blue-marble-256x256.py',
}
TOOLS = Path(__file__).parent
SHOWN = 'ViTTM-T 16/32, focused attention'  # the model whose predictions are drawn


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'), help='folder of all results')
    parser.add_argument(
        '--iters', type=int, help='training iterations per model (default: the schedule), and rounds of timing at most'
    )
    return parser.parse_args()


def run(console: Console, title: str, tool: str, *args: str | Path, output: Path | None = None) -> None:
    """Run a tool of this folder and show its command line; what it prints may go to a file."""
    words = [os.path.relpath(TOOLS / tool), *map(str, args)]
    console.rule(title, align='left')
    console.print(f'$ python {shlex.join(words)}', style='dim', soft_wrap=True, highlight=False, markup=False)
    with output.open('w') if output else nullcontext() as file:
        done = subprocess.run([sys.executable, *words], stdout=file, check=False)
    if done.returncode:
        raise UserError(f'the demo stopped at "{title}": see above')


def closing_table(metrics: dict[str, dict[str, float]], speeds: dict[str, dict]) -> Table:
    """Build the table of accuracy and time."""
    table = Table(title='Blue Marble, 19 held-out tiles', title_justify='left')
    for name in ('model', 'mIoU (%)', 'ms per tile'):
        table.add_column(name, justify='left' if name == 'model' else 'right')
    for model, values in metrics.items():
        table.add_row(model, f'{values["mIoU"]:.1f}', f'{speeds[model]["time_ms"]["median"]:.0f}')
    return table


def main() -> None:
    args = parse_args()
    start = time.monotonic()
    console = Console()
    iters = [] if args.iters is None else ['--cfg-options', f'train_cfg.max_iters={args.iters}']
    configs = {model: os.path.relpath(mmvittm.config_file(config)) for model, config in MODELS.items()}
    folders = {model: args.work_dir / Path(config).stem for model, config in configs.items()}
    drawn, fps = args.work_dir / 'predictions.png', args.work_dir / 'fps.json'

    run(console, '1/5 Blue Marble: satellite images and climate zones', 'dataset_converters/blue_marble.py')
    for model, config in configs.items():
        folder = folders[model]
        run(console, f'2/5 Train {model}', 'train.py', config, '--work-dir', folder, *iters)
    for model, config in configs.items():
        folder = folders[model]
        checkpoint = find_latest_checkpoint(str(folder))
        outputs = ['--work-dir', folder, '--out', folder / 'predictions']
        run(console, f'3/5 Test {model}', 'test.py', config, checkpoint, *outputs)
    predictions = folders[SHOWN] / 'predictions'
    run(console, '4/5 Draw predictions', 'prediction_grid.py', configs[SHOWN], predictions, '--out', drawn)
    timing = ['--shape', 512, '--rounds', min(20, args.iters or 20), '--out', fps]
    report = fps.with_suffix('.txt')
    run(console, '5/5 Measure the speed', 'fps_benchmark.py', *configs.values(), *timing, output=report)

    metrics = {
        model: json.loads((folder / 'predictions/metrics.json').read_text()) for model, folder in folders.items()
    }
    speeds = dict(zip(MODELS, json.loads(fps.read_text())['results'], strict=True))
    console.rule('Done', align='left')
    console.print(closing_table(metrics, speeds))
    print(f'Time: network only, 512 × 512 pixels; details in {report}')
    print(f'Predictions of {SHOWN}: {drawn}')
    print(f'The demo took {(time.monotonic() - start) / 60:.1f} minutes.')


if __name__ == '__main__':
    run_tool(main)
