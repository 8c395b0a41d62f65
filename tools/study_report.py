"""Tables and plots of a study, made from its CSV files alone (tools/study.py --report)."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pages import markdown, write_section
from scipy import stats

from mmvittm.errors import UserError
from mmvittm.fileio import atomic_path

WEAK_FROM = 0.05  # a difference of a higher false discovery rate is weak evidence


def interval(values: pd.Series) -> tuple[float, float]:
    """95 % confidence interval of the mean by Student's t; NaN with fewer than two values."""
    if len(values) < 2:
        return np.nan, np.nan
    return tuple(stats.ttest_1samp(values, 0).confidence_interval())


def between(low: float, high: float) -> str:
    return 'needs two runs' if np.isnan(low) else f'{low:.1f} to {high:.1f}'


def models_of(study: dict) -> list[str]:
    """The models of a study in its order, those that it only refers to at the end."""
    return [*study['configs'], *study.get('references', {})]


def references(study: dict, folder: Path) -> Iterator[pd.DataFrame]:
    """Yield the rows of each model that the study did not train: those of a file with the values that it asks for."""
    repeats = study['repeats']
    for model, (file, wanted) in study.get('references', {}).items():
        if not (folder / file).is_file():
            raise UserError(f'{folder / file} does not exist: the study refers to it for {model}')
        rows = pd.read_csv(folder / file)
        if missing := {*wanted, repeats['name'], study['metric']} - set(rows):
            raise UserError(
                f'{folder / file} has no column {", ".join(sorted(missing))}, which the study needs for {model}'
            )
        rows = rows[(rows[list(wanted)] == pd.Series(wanted)).all(axis=1)]
        rows = rows[rows[repeats['name']].isin(repeats['values'])]
        if rows[repeats['name']].duplicated().any():
            raise UserError(f'{folder / file} has several rows per {repeats["name"]} for {model}: name more values')
        yield rows.assign(model=model)


def read_rows(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={'hash': str})  # one such as 2359549667e0 is no number


def read_runs(study: dict, folder: Path) -> pd.DataFrame:
    """The finished runs of a study, the last one per model and fold or seed, of the length of the model's last run.

    Raises:
        UserError: If no run has finished.
    """
    path, repeat = folder / 'runs.csv', study['repeats']['name']
    if not path.is_file():
        raise UserError(f'{path} does not exist: no run of this study has finished')
    runs = read_rows(path)
    runs = runs[runs.model.isin(study['configs']) & runs[repeat].isin(study['repeats']['values'])]
    # a run of another length than the last one, such as a short trial, is no run of the same training
    runs = runs[runs.length == runs.groupby('model').length.transform('last')]
    return runs.drop_duplicates(['model', repeat], keep='last')


def results_table(runs: pd.DataFrame, study: dict, speed: pd.DataFrame | None) -> pd.DataFrame:
    """Mean and interval of the metric per model, the mean of each class, and the speed."""
    metric = study['metric']
    rows = {}
    for model in [model for model in models_of(study) if model in set(runs.model)]:
        own = runs[runs.model == model]
        row = {
            'runs': f'{len(own)}',
            metric: f'{own[metric].mean():.1f}',
            '95 % interval': between(*interval(own[metric])),
        }
        classes = own.filter(regex=r'^IoU\.').mean()
        rows[model] = row | {name.removeprefix('IoU.'): f'{iou:.1f}' for name, iou in classes.items()}
        if speed is not None and model in speed.index:
            rows[model] |= {'ms': f'{speed.ms[model]:.1f}', 'GMACs': f'{speed.GMACs[model]:.3g}'}
    return pd.DataFrame.from_dict(rows, orient='index').fillna('–').replace('nan', '–')


def paired_differences(runs: pd.DataFrame, study: dict) -> pd.DataFrame:
    """Mean difference of each comparison over the folds or seeds that both models have, with its interval.

    Among many comparisons some look better by chance: ``q`` is the false discovery rate that one has to accept to call
    a difference shown (Benjamini and Hochberg), over all comparisons of the study.

    Returns:
        pd.DataFrame: ``pairs``, ``difference``, ``low``, ``high``, ``q`` and ``conclusion`` by comparison.
    """
    repeat = study['repeats']['name']
    table = runs.pivot(index=repeat, columns='model', values=study['metric'])
    machines = runs.pivot(index=repeat, columns='model', values='machine')
    rows = {}
    for first, second in study.get('comparisons', []):
        if {first, second} <= set(table.columns):
            difference = (table[first] - table[second]).dropna()
            low, high = interval(difference)
            known = machines.loc[difference.index, [first, second]].dropna()
            rows[name_of(first, second)] = dict(
                pairs=len(difference), difference=difference.mean(), low=low, high=high,
                p=stats.ttest_1samp(difference, 0).pvalue if len(difference) > 1 and difference.any() else np.nan,
                two_machines=(known[first] != known[second]).any(),
            )  # fmt: skip
    if not rows:
        return pd.DataFrame()
    frame = pd.DataFrame.from_dict(rows, orient='index')
    tested = frame.p.notna()
    frame.loc[tested, 'q'] = stats.false_discovery_control(frame.p[tested])
    return frame.assign(conclusion=frame.apply(conclude, axis=1))


def name_of(first: str, second: str) -> str:
    return f'{first} against {second}'


def conclude(row: pd.Series) -> str:
    """Put into words what a row of :func:`paired_differences` shows.

    Runs on two machines may differ by their rounding alone, as two seeds do, so the words say it.
    """
    if np.isnan(row.low):
        return 'too few runs'
    text = 'no difference shown' if row.low <= 0 <= row.high else 'better' if row.low > 0 else 'worse'
    weak = ', weak evidence' if text != 'no difference shown' and row.q >= WEAK_FROM else ''
    machines = ' (two machines)' if row.two_machines else ''
    return text + weak + machines


def difference_texts(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The cells of a table of differences."""
    q = frame.q.map(lambda q: '–' if np.isnan(q) else '<0.001' if q < 0.001 else f'{q:.3f}')
    return pd.DataFrame(
        {
            'pairs': frame.pairs.astype(str),
            f'difference in {metric}': frame.difference.map('{:+.1f}'.format),
            '95 % interval': [between(*ends) for ends in zip(frame.low, frame.high, strict=True)],
            'q': q,
            'conclusion': frame.conclusion,
        }
    )


def plot_tradeoff(runs: pd.DataFrame, study: dict, speed: pd.DataFrame, path: Path) -> None:
    """The metric against the time per image, with 95 % intervals."""
    figure = Figure(figsize=(9, 4), layout='constrained')
    axes = figure.add_subplot(xlabel='ms per image', ylabel=study['metric'])
    models = [model for model in models_of(study) if model in set(runs.model) & set(speed.index)]
    for index, model in enumerate(models):
        values = runs[runs.model == model][study['metric']]
        half = (interval(values)[1] - values.mean()) if len(values) > 1 else None
        marker = 'os^v'[index // 10 % 4]  # ten colours repeat
        axes.errorbar(speed.ms[model], values.mean(), yerr=half, fmt=marker, capsize=3, label=model)
    save(figure, path)


def plot_runs(runs: pd.DataFrame, study: dict, repeat: str, path: Path) -> None:
    """The metric of every run, with a line through the models of each fold or seed."""
    table = runs.pivot(index='model', columns=repeat, values=study['metric'])
    table = table.loc[[model for model in models_of(study) if model in table.index]]
    figure = Figure(figsize=(8, 0.3 * len(table) + 1.5), layout='constrained')
    axes = figure.add_subplot(xlabel=study['metric'])
    for value in table:
        axes.plot(table[value], range(len(table)), 'o-', linewidth=0.7, markersize=4, label=f'{repeat} {value}')
    axes.set_yticks(range(len(table)), table.index)
    axes.invert_yaxis()
    axes.grid(axis='x', alpha=0.3)
    save(figure, path)


def plot_curves(curves: pd.DataFrame, study: dict, repeat: str, path: Path) -> None:
    """Mean validation metric over the training, of the folds or seeds that all models have."""
    figure = Figure(figsize=(9, 4), layout='constrained')
    curves = curves[curves.model.isin(study['configs'])].drop_duplicates(['model', repeat, 'step'], keep='last')
    shared = set.intersection(*curves.groupby('model')[repeat].agg(set)) or set(curves[repeat])
    curves = curves[curves[repeat].isin(shared)]
    values = ', '.join(map(str, sorted(shared)))
    table = curves.pivot_table(index='step', columns='model', values=study['metric'])
    table = table[[model for model in models_of(study) if model in table]]
    axes = table.plot(ax=figure.add_subplot(), marker='.', legend=False)
    axes.set(xlabel=unit_of(study), ylabel=f'{study["metric"]}, mean over {repeat}s ({values})')
    axes.xaxis.get_major_locator().set_params(integer=True)
    save(figure, path)


def plot_scalars(scalars: pd.DataFrame, study: dict, path: Path) -> None:
    """Scalars over the training, the mean over blocks, and of each block at the end; means over folds or seeds.

    Models of the same config have the same colour and different lines.

    Raises:
        UserError: If the study names a scalar that no model has logged.
    """
    logged = {re.sub(r'/block_\d+$', '', name) for name in scalars}
    if missing := [scalar for scalar in study['scalars'] if scalar not in logged]:
        raise UserError(f'no model has logged the scalar {missing[0]}: correct `scalars` of the study')
    means = scalars.groupby(['model', 'step']).mean(numeric_only=True)
    models = [model for model in study['configs'] if model in means.index]
    configs, seen, styles = list(dict.fromkeys(study['configs'].values())), Counter(), {}
    for model in models:
        config = study['configs'][model]
        styles[model] = dict(color=f'C{configs.index(config)}', linestyle=('-', '--', ':', '-.')[seen[config] % 4])
        seen[config] += 1
    figure = Figure(figsize=(9, 2.2 * len(study['scalars'])), layout='constrained')
    for row, scalar in zip(figure.subplots(len(study['scalars']), 2, squeeze=False), study['scalars'], strict=True):
        for model in models:
            own = means.loc[model].filter(regex=rf'^{re.escape(scalar)}(/block_\d+)?$').dropna()
            if len(own):  # a ViT has no memory
                share = own.index / means.loc[model].index.max()  # lengths differ
                row[0].plot(share, own.mean(axis=1), label=model, linewidth=1, **styles[model])
                row[1].plot(range(own.shape[1]), own.iloc[-1], marker='o', markersize=4, **styles[model])
        row[0].set(ylabel=scalar.rpartition('/')[2], xlabel='share of the training')
        row[1].set(xlabel='block, end of the training')
        row[1].set_visible(scalar not in means)
    save(figure, path, loc='outside upper center', ncols=2)


def unit_of(study: dict) -> str:
    """Unit of the length of a training: epochs of a classifier, iterations of a segmentor."""
    return 'epoch' if study['metric'].startswith('accuracy') else 'iteration'


def save(figure: Figure, path: Path, **legend: object) -> None:
    legend = dict(loc='outside right upper', fontsize='small') | legend
    figure.legend(*figure.axes[0].get_legend_handles_labels(), **legend)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, metadata=dict(Software=None))


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
    tables = {path.stem: read_rows(path) for path in folder.glob('*.csv')}
    repeat, metric = study['repeats']['name'], study['metric']
    runs = read_runs(study, folder)
    for table in {'curves', 'scalars'} & set(tables):
        tables[table] = tables[table].merge(runs[['model', repeat, 'hash']])
    speed = tables['speed'].set_index('model') if 'speed' in tables else None
    lengths = ' or '.join(str(length) for length in sorted(runs.length.unique()))
    expected = len(study['configs']) * len(study['repeats']['values'])
    machines, plural = '; '.join(runs.machine.unique()), 's' if lengths != '1' else ''
    done = f'{len(runs)} of {expected} runs, {lengths} {unit_of(study)}{plural} each, on {machines}.'
    if speed is not None:
        done += f' Times in ms, for a batch of one on {speed.threads.iloc[0]} threads of {speed.machine.iloc[0]}.'
    runs = pd.concat([runs, *references(study, folder)])
    text = [
        f'## {study["title"]}\n',
        f'{done}\n',
        signed(results_table(runs, study, speed), 'model'),
    ]
    differences = paired_differences(runs, study)
    if len(differences):
        text += [f'Differences, paired by {repeat}:\n', signed(difference_texts(differences, metric), 'comparison')]
    if 'note' in study:
        text.append(f'{study["note"]}\n')
    images = page.parent / 'images'
    if speed is not None:
        text.append(f'![{metric} against time per image, 95 % intervals](images/study_{name}_speed.png)\n')
        plot_tradeoff(runs, study, speed, images / f'study_{name}_speed.png')
    if runs[repeat].nunique() > 1:
        text.append(f'![{metric} of every run](images/study_{name}_runs.png)\n')
        plot_runs(runs, study, repeat, images / f'study_{name}_runs.png')
    if 'curves' in tables and tables['curves'].step.nunique() > 1:
        text.append(f'![{metric} over the training](images/study_{name}_curves.png)\n')
        plot_curves(tables['curves'], study, repeat, images / f'study_{name}_curves.png')
    if 'scalars' in tables:
        text.append(f'![Logged scalars over the training and by block](images/study_{name}_scalars.png)\n')
        plot_scalars(tables['scalars'], study, images / f'study_{name}_scalars.png')
    page.parent.mkdir(parents=True, exist_ok=True)
    if not page.is_file():
        page.write_text('# Studies\n', encoding='utf-8')
    marks = f'<!-- study {name}: made by tools/study.py -->', f'<!-- end of {name} -->'
    write_section(page, '\n'.join(text).rstrip(), *marks)


def signed(table: pd.DataFrame, corner: str) -> str:
    """Markdown with minus signs before numbers."""
    return re.sub(r'(?<= )-(?=\d)', '−', markdown(table.reset_index(names=corner))) + '\n'
