"""Write the table of docs/model-zoo.md from results/ and the configs: `python tools/model_zoo.py`.

With --count, the parameters and multiply-adds of configs that results/complexity.csv lacks are counted first.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import yaml
from study_report import between, interval, markdown, read_runs

from mmvittm.apis.cli import run_tool
from mmvittm.benchmark.candidates import build_candidate
from mmvittm.benchmark.complexity import count_parameters
from mmvittm.fileio import atomic_path

PAGE = Path('docs/model-zoo.md')
COMPLEXITY = Path('results/complexity.csv')
BEGIN, END = '<!-- begin generated -->', '<!-- end generated -->'
URL = 'https://github.com/mmvittm/mmvittm/blob/main/'
DATA = {
    'ade20k': 'ADE20K',
    'blue-marble': 'Blue Marble',
    'camvid': 'CamVid',
    'cifar10': 'CIFAR-10',
    'digit-scenes': 'Digit scenes',
    'earth': 'Earth',
    'fashion-mnist': 'Fashion-MNIST',
    'in1k': 'ImageNet-1k',
    'in21k-p': 'ImageNet-21k-P',
    'mnist': 'MNIST',
}
NONE = '–'


def config_paths() -> list[str]:
    """Paths of all models' configs, without the ablations."""
    return sorted(f'configs/{path.relative_to("configs")}' for path in Path('configs').glob('vit*/*.py'))


def data_of(config: str) -> str:
    """Data set and image size, from the last part of the config's name."""
    name, _, size = Path(config).stem.rpartition('_')[2].rpartition('-')
    if 'x' not in size:  # no size in the name
        name, size = f'{name}-{size}'.strip('-'), ''
    return f'{DATA[name]} {size.replace("x", "×")}'.strip()


def accuracies() -> Iterator[tuple[str, str]]:
    """Yield each config of a study that has results, and its mean with its 95 % interval."""
    for path in sorted(Path('configs/studies').glob('*.yml')):
        study, results = yaml.safe_load(path.read_text()), Path('results', path.stem, 'runs.csv')
        if not results.is_file():
            continue
        repeat, metric = study['repeats']['name'], study['metric']
        runs = read_runs(results, repeat)
        for model, config in study['configs'].items():
            own = runs[runs.model == model]
            if len(own):
                low, high = interval(own[metric])
                length = f'{len(own)} {repeat}s, {own.length.max()} steps'
                name = '' if metric == 'mIoU' else f' {metric}'
                yield f'configs/{config}', f'{own[metric].mean():.1f}{name} ({between(low, high)}; {length})'


def speeds() -> Iterator[tuple[str, dict]]:
    """Yield measured times and memory of whole networks, for one image in PyTorch with fp32."""
    for path in sorted(Path('configs/studies').glob('*.yml')):
        study, results = yaml.safe_load(path.read_text()), Path('results', path.stem, 'speed.csv')
        if results.is_file():
            for row in pd.read_csv(results).itertuples():
                yield f'configs/{study["configs"][row.model]}', dict(ms=f'{row.ms:.0f}')
    for path in sorted(Path('results/speed').glob('fps-*.csv')):
        frame = pd.read_csv(path)
        chosen = frame['measures'].str.startswith('backbone, neck') & frame['mode'].eq('torch fp32')
        for row in frame[chosen & frame['batch'].eq(1) & frame['swept.name'].isna()].to_dict('records'):
            memory = row['peak_memory'] / 1e6
            yield (
                row['config'],
                {'ms': f'{row["time_ms.median"]:.0f}', 'memory, MB': f'{memory:.0f}' if memory > 0 else NONE},
            )


def complexities() -> dict[str, dict]:
    frame = pd.read_csv(COMPLEXITY) if COMPLEXITY.is_file() else pd.DataFrame(columns=['config'])
    return {row['config']: row for row in frame.to_dict('records')}


def count(config: str) -> dict:
    """Count the parameters and the multiply-adds for one image of the config's test size."""
    candidate = build_candidate(config)
    height, width = candidate.images.shape[2:]
    numbers = dict(parameters=count_parameters(candidate.network), macs_per_image=round(candidate.macs_per_image))
    return dict(config=config, height=height, width=width) | numbers


def table() -> str:
    """Return the table as Markdown."""
    miou, speed, complexity = dict(accuracies()), dict(speeds()), complexities()
    rows = {}
    for config in sorted(config_paths(), key=lambda config: (data_of(config).lower(), config)):
        counted = complexity.get(config)
        row = {'data': data_of(config), 'mIoU (95 % interval)': miou.get(config, NONE), 'ms': NONE}
        row['GMACs'] = f'{counted["macs_per_image"] / 1e9:.1f}' if counted else NONE
        row['parameters, M'] = f'{counted["parameters"] / 1e6:.1f}' if counted else NONE
        rows[f'[{Path(config).stem}]({URL}{config})'] = row | {'memory, MB': NONE} | speed.get(config, {})
    return markdown(pd.DataFrame.from_dict(rows, orient='index'), 'config')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--count', action='store_true', help='count what results/complexity.csv lacks')
    if parser.parse_args().count:
        known = complexities()
        rows = [known.get(config) or count(config) for config in config_paths()]
        with atomic_path(COMPLEXITY) as path:
            pd.DataFrame(rows).to_csv(path, index=False)
    before, rest = PAGE.read_text(encoding='utf-8').split(BEGIN)
    with atomic_path(PAGE) as path:
        path.write_text(f'{before}{BEGIN}\n\n{table()}\n{END}{rest.split(END)[1]}', encoding='utf-8')


if __name__ == '__main__':
    run_tool(main)
