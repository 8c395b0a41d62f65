"""Write the differences that answer the questions of docs/study.md, as tables and as a plot, from CSV files.

study_answers.yaml lists them; the files are those in results/. `make docs` runs this tool.
"""

import argparse
import re
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import yaml
from mmengine.fileio import load
from pages import write_section
from study_report import difference_texts, name_of, paired_differences, read_runs, references, signed

from mmvittm.apis.cli import run_tool
from mmvittm.errors import UserError
from mmvittm.fileio import atomic_path

PLAN = load(Path(__file__).with_suffix('.yaml'))
PAGE = Path('docs/study.md')
COLOURS = {'better': 'tab:green', 'worse': 'tab:red', 'no difference shown': 'tab:gray'}


@cache
def differences_of(name: str) -> tuple[dict, pd.DataFrame, pd.Series]:
    """A study, its paired differences, and the milliseconds of its models, without any if it was not timed."""
    study = yaml.safe_load(Path('configs/studies', f'{name}.yml').read_text(encoding='utf-8'))
    folder = Path('results', name)
    frame = paired_differences(pd.concat([read_runs(study, folder), *references(study, folder)]), study)
    timed = folder / 'speed.csv'
    return study, frame, pd.read_csv(timed).set_index('model').ms if timed.is_file() else pd.Series(dtype=float)


def rows_of(table: str) -> pd.DataFrame:
    """The differences of a table by their labels, with the ``time`` relative to that of the second model."""
    rows = {}
    for label, (name, first, second) in PLAN[table]['rows'].items():
        study, frame, ms = differences_of(name)
        if name_of(first, second) not in frame.index:
            raise UserError(f'{name} does not compare {first} with {second}: see {table} in study_answers.yaml')
        # as GitHub and MkDocs make it from a heading
        anchor = re.sub(r'[^\w\- ]', '', study['title'].lower()).replace(' ', '-')
        time = ms[first] / ms[second] if {first, second} <= set(ms.index) else float('nan')
        rows[label] = dict(frame.loc[name_of(first, second)], anchor=anchor, time=time)
    return pd.DataFrame.from_dict(rows, orient='index')


def markdown_table(rows: pd.DataFrame) -> str:
    texts = (
        difference_texts(rows, 'points').drop(columns='pairs').rename(columns={'difference in points': 'difference'})
    )
    if rows.time.notna().any():
        texts.insert(3, 'time', rows.time.map(lambda time: '–' if time != time else f'{time:.1f}×'))
    texts.index = [f'[{label}](#{anchor})' for label, anchor in rows.anchor.items()]
    return signed(texts, 'compared')


def draw(tables: dict[str, pd.DataFrame], path: Path) -> None:
    """Draw all differences with their intervals, a panel for each table."""
    heights = [len(rows) + 2 for rows in tables.values()]
    figure, panels = plt.subplots(
        len(tables), figsize=(9, 0.2 * sum(heights)), height_ratios=heights, sharex=True, layout='constrained'
    )
    for axes, (table, rows) in zip(panels, tables.items(), strict=True):
        for place, (_, row) in enumerate(rows.iterrows()):
            verdict = re.split(r', | \(', row.conclusion)[0]
            ends = [[row.difference - row.low], [row.high - row.difference]]
            hollow = dict(markerfacecolor='white') if 'weak' in row.conclusion else {}
            axes.errorbar(
                row.difference, place, xerr=ends, fmt='o', markersize=4, capsize=2, color=COLOURS[verdict], **hollow
            )
        axes.set_title(PLAN[table]['title'], loc='left', fontsize='small', fontweight='bold')
        axes.set_yticks(range(len(rows)), rows.index, fontsize='x-small')
        axes.set_ylim(len(rows) - 0.3, -0.7)
        axes.axvline(0, color='black', linewidth=0.7)
        axes.grid(axis='x', alpha=0.3)
    panels[-1].set_xlabel('difference in points of mIoU or top-1, with its 95 % interval')
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, metadata=dict(Software=None))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    tables = {table: rows_of(table) for table in PLAN}
    for table, rows in tables.items():
        begin, end = f'<!-- answer {table}: made by tools/study_answers.py -->', f'<!-- end of answer {table} -->'
        write_section(PAGE, f'\n{markdown_table(rows)}', begin, end)
    draw(tables, PAGE.parent / 'images' / 'study_answers.png')


if __name__ == '__main__':
    run_tool(main)
