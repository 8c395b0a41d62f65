"""Tables and plots of a study, made from its CSV files alone (tools/study.py --report)."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

from mmvittm.errors import UserError
from mmvittm.fileio import atomic_path


def read_runs(path: Path, repeat: str) -> pd.DataFrame:
    """The rows of runs.csv, the newest per model and fold or seed.

    Raises:
        UserError: If there are none.
    """
    if not path.is_file():
        raise UserError(f'{path} does not exist: no run of this study has finished')
    return pd.read_csv(path).drop_duplicates(['model', repeat], keep='last')


def interval(values: pd.Series) -> tuple[float, float]:
    """95 % confidence interval of the mean by Student's t; NaN with fewer than two values."""
    if len(values) < 2:
        return np.nan, np.nan
    return tuple(stats.ttest_1samp(values, 0).confidence_interval())


def results_table(runs: pd.DataFrame, study: dict, speed: pd.DataFrame | None) -> pd.DataFrame:
    """Mean and interval of the metric per model, the mean of each class, and the speed."""
    metric = study['metric']
    classes = [name for name in runs.columns if name.startswith('IoU.')]
    rows = {}
    for model in [model for model in study['configs'] if model in set(runs.model)]:
        chosen = runs[runs.model == model]
        low, high = interval(chosen[metric])
        row = {'runs': str(len(chosen)), metric: f'{chosen[metric].mean():.1f}', '95 % interval': between(low, high)}
        rows[model] = row | {name.removeprefix('IoU.'): f'{chosen[name].mean():.1f}' for name in classes}
        if speed is not None and model in speed.index:
            rows[model] |= {'ms': f'{speed.ms[model]:.1f}', 'GMACs': f'{speed.GMACs[model]:.2f}'}
    return pd.DataFrame.from_dict(rows, orient='index').fillna('–')


def paired_differences(runs: pd.DataFrame, study: dict, repeat: str) -> pd.DataFrame:
    """Mean difference of each comparison over the folds or seeds that both models have, with its interval."""
    table = runs.pivot(index=repeat, columns='model', values=study['metric'])
    rows = {}
    for first, second in study.get('comparisons', []):
        if not {first, second} <= set(table.columns):
            continue
        difference = (table[first] - table[second]).dropna()
        low, high = interval(difference)
        if np.isnan(low):
            conclusion = 'too few runs'
        else:
            conclusion = 'no difference shown' if low <= 0 <= high else 'better' if low > 0 else 'worse'
        rows[f'{first} against {second}'] = {
            'pairs': str(len(difference)),
            f'difference in {study["metric"]}': f'{difference.mean():+.1f}',
            '95 % interval': between(low, high),
            'conclusion': conclusion,
        }
    return pd.DataFrame.from_dict(rows, orient='index')


def between(low: float, high: float) -> str:
    """``'1.2 to 3.4'``, with a minus sign."""
    return 'needs two runs' if np.isnan(low) else f'{low:.1f} to {high:.1f}'.replace('-', '−')


def markdown(table: pd.DataFrame, corner: str) -> str:
    lines = [[corner, *table.columns], ['---'] + ['---:'] * len(table.columns)]
    lines += [
        [index, *(str(cell).replace('-', '−') if re.match(r'-\d', str(cell)) else cell for cell in row)]
        for index, *row in table.itertuples()
    ]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def plot_tradeoff(runs: pd.DataFrame, study: dict, speed: pd.DataFrame, path: Path) -> None:
    """The metric against the time per image, with 95 % intervals."""
    figure, axes = plt.subplots(figsize=(6, 4), layout='constrained')
    for model in [model for model in study['configs'] if model in set(runs.model) & set(speed.index)]:
        values = runs[runs.model == model][study['metric']]
        low, high = interval(values)
        error = [[values.mean() - low], [high - values.mean()]]
        axes.errorbar(
            speed.ms[model], values.mean(), yerr=None if np.isnan(low) else error, fmt='o', capsize=3, label=model
        )
    axes.set(xlabel='ms per image', ylabel=study['metric'])
    axes.legend(fontsize='small')
    save(figure, path)


def plot_curves(curves: pd.DataFrame, study: dict, repeat: str, path: Path) -> None:
    """Mean validation metric over the training."""
    figure, axes = plt.subplots(figsize=(6, 4), layout='constrained')
    curves = curves.drop_duplicates(['model', repeat, 'step'], keep='last')
    table = curves.pivot_table(index='step', columns='model', values=study['metric'])
    table[[model for model in study['configs'] if model in table]].plot(ax=axes, marker='.')
    axes.set(xlabel='iteration', ylabel=f'{study["metric"]}, mean over {repeat}s')
    axes.legend(fontsize='small')
    save(figure, path)


def save(figure: plt.Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, metadata=dict(Software=None))
    plt.close(figure)


def write_report(name: str, study: dict, folder: Path, page: Path) -> None:
    """Write the section of a study into ``page``, in place of its last one, and its plots into ``images`` beside it.

    Args:
        name (str): Name of the study.
        study (dict): Content of its file.
        folder (Path): Folder with its CSV files.
        page (Path): Markdown page.

    Raises:
        UserError: If no run has finished.
    """
    repeat = study['repeats']['name']
    runs = read_runs(folder / 'runs.csv', repeat)
    speed = pd.read_csv(folder / 'speed.csv', index_col='model') if (folder / 'speed.csv').is_file() else None
    text = [f'## {study["title"]}\n']
    lengths = ' or '.join(str(length) for length in sorted(runs.length.unique()))
    expected = len(study['configs']) * len(study['repeats']['values'])
    unit = 'epochs' if study['metric'].startswith('accuracy') else 'iterations'
    text.append(f'{len(runs)} of {expected} runs, {lengths} {unit} each, on {", ".join(runs.machine.unique())}.\n')
    text.append(markdown(results_table(runs, study, speed), 'model'))
    differences = paired_differences(runs, study, repeat)
    if len(differences):
        text.append(f'Differences, paired by {repeat}:\n')
        text.append(markdown(differences, 'comparison'))
    plots = {}
    if speed is not None:
        plots['speed'] = f'{study["metric"]} against time per image, 95 % intervals'
        plot_tradeoff(runs, study, speed, page.parent / 'images' / f'study_{name}_speed.png')
    if (folder / 'curves.csv').is_file():
        plots['curves'] = f'{study["metric"]} over the training'
        plot_curves(
            pd.read_csv(folder / 'curves.csv'), study, repeat, page.parent / 'images' / f'study_{name}_curves.png'
        )
    text += [f'![{caption}](images/study_{name}_{kind}.png)\n' for kind, caption in plots.items()]
    replace_section(page, name, '\n'.join(text))


def replace_section(page: Path, name: str, text: str) -> None:
    """Replace what is between the marks of ``name``, or append it with its marks."""
    begin, end = f'<!-- study {name}: made by tools/study.py -->', f'<!-- end of {name} -->'
    old = page.read_text(encoding='utf-8') if page.is_file() else '# Studies\n'
    section = f'{begin}\n{text}{end}'
    pattern = re.compile(re.escape(begin) + '.*?' + re.escape(end), re.DOTALL)
    new = pattern.sub(lambda match: section, old) if pattern.search(old) else f'{old.rstrip()}\n\n{section}\n'
    with atomic_path(page) as path:
        path.write_text(new, encoding='utf-8')
