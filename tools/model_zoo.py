"""Write the table of docs/model-zoo.md from the CSV files in results/ and the names of the configs."""

import argparse
import re
from collections import defaultdict
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

import pandas as pd
import yaml
from pages import markdown, write_section
from study_report import between, interval, read_runs

from mmvittm.apis.cli import run_tool
from mmvittm.apis.config import input_size, load_config

PAGE = Path('docs/model-zoo.md')
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
    return f'{DATA.get(name, name)} {size.replace("x", "×")}'.strip()


def studies() -> Iterator[tuple[dict, Path]]:
    """Yield the studies, and the folders of their results."""
    for path in sorted(Path('configs/studies').glob('*.yml')):
        yield yaml.safe_load(path.read_text()), Path('results', path.stem)


def accuracies() -> dict[str, str]:
    """Return the mean of each config that has one, with its 95 % interval, for each length of training.

    A study that has not trained the config on all its folds or seeds counts only where there is no other. Of several,
    the one with the most runs counts.
    """
    found: dict[str, dict[tuple[bool, int], tuple[int, str]]] = defaultdict(dict)
    for study, folder in studies():
        if not (folder / 'runs.csv').is_file():
            continue
        repeat, metric = study['repeats']['name'], study['metric']
        varied = {*study.get('model_options', {}), *study.get('first_stages', {})}  # more than the config
        if any(key.startswith('model.') for key in study.get('options', {})):
            continue
        runs = read_runs(study, folder)
        for model, config in study['configs'].items():
            own, config = runs[runs.model == model], f'configs/{config}'
            if model in varied or not len(own):
                continue
            complete = own[repeat].nunique() == len(study['repeats']['values'])
            error = (
                f'{between(*interval(own[metric]))}; {len(own)} {repeat}s'
                if len(own) > 1
                else f'{repeat} {own[repeat].iloc[0]} only'
            )
            name, unit = ('', 'step') if metric == 'mIoU' else (' % top-1', 'epoch')
            length = own.length.max()
            text = f'{own[metric].mean():.1f}{name} ({error}, {length} {unit}{"" if length == 1 else "s"})'
            known = found[config].get((complete, length), (0, ''))
            found[config][complete, length] = max(known, (len(own), text), key=itemgetter(0))
    return {
        config: '; '.join(text for (complete, _), (_, text) in sorted(texts.items()) if complete == max(texts)[0])
        for config, texts in found.items()
    }


def measurements() -> Iterator[tuple[str, dict]]:
    """Yield time, work and memory of whole networks, for one image in PyTorch with fp32."""
    for study, folder in studies():
        timed = folder / 'speed.csv'
        for row in pd.read_csv(timed).to_dict('records') if timed.is_file() else []:
            if row['model'] not in study['configs']:
                continue
            config = f'configs/{study["configs"][row["model"]]}'
            if study.get('shape') in (None, list(input_size(load_config(config)))):
                yield config, cells(row['machine'], row['ms'], row['GMACs'], row['parameters'])
    frames = [pd.read_csv(path) for path in Path('results/speed').glob('fps-*.csv')]
    if not frames:
        return
    frame = max(frames, key=lambda frame: frame['config'].nunique())  # one machine, that which measured most models
    chosen = frame['measures'].str.startswith('backbone, neck') & frame['mode'].eq('torch fp32')
    rows = frame[chosen & frame['batch'].eq(1) & frame['swept.name'].isna()]
    for row in rows.sort_values('time_ms.precision', ascending=False).to_dict('records'):  # the last one counts
        macs, parameters = row['macs_per_image'] / 1e9, row['parameters'] / 1e6
        memory = row['peak_memory'] / 1e6
        yield row['config'], cells(row['machine'], row['time_ms.median'], macs, parameters, memory)


def cells(machine: str = NONE, *values: float) -> dict[str, str]:
    """Return the cells of a measurement by header; a value may be missing or NaN."""
    headers = {'ms': '.0f', 'GMACs': '.3g', 'parameters, M': '.1f', 'memory, MB': '.0f'}
    row = dict.fromkeys(headers, NONE) | {'CPU': re.sub(r'\(R\)| Processor|, \d+ (cores|threads)', '', machine)}
    for (header, style), value in zip(headers.items(), values, strict=False):
        row[header] = f'{value:{style}}' if value == value else NONE
    return row


def table() -> str:
    """Return the table as Markdown."""
    accuracy, measured = accuracies(), dict(measurements())
    rows = [
        {
            'config': f'[{Path(config).stem}]({URL}{config})',
            'data': data_of(config),
            'mIoU (95 % interval)': accuracy.get(config, NONE),
            **measured.get(config, cells()),
        }
        for config in sorted(config_paths(), key=lambda config: (data_of(config).lower(), config))
    ]
    return markdown(pd.DataFrame(rows))


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    write_section(PAGE, f'\n{table()}')


if __name__ == '__main__':
    run_tool(main)
