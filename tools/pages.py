"""Generated sections of Markdown pages."""

from pathlib import Path

import pandas as pd

from mmvittm.errors import UserError
from mmvittm.fileio import atomic_path

BEGIN, END = '<!-- begin generated -->', '<!-- end generated -->'


def markdown(texts: pd.DataFrame) -> str:
    """A Markdown table; the first column has the names, and numbers are aligned to the right."""
    numbers = [texts[name].str.contains(r'^\W?\d', na=False).any() for name in texts.columns[1:]]
    aligned = ['---', *('---:' if number else '---' for number in numbers)]
    return '\n'.join(f'| {" | ".join(line)} |' for line in [list(texts), aligned, *texts.to_numpy().tolist()])


def write_section(page: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Replace what is between two marks of ``page``; append it with the marks if they are missing.

    Raises:
        UserError: If only the first mark is there, since the rest of the page would be lost.
    """
    before, found, rest = (page.read_text(encoding='utf-8') if page.is_file() else '').partition(begin)
    if found and end not in rest:
        raise UserError(f'{page} has {begin} without {end} after it: restore that mark')
    after = rest.partition(end)[2] if found else '\n'
    with atomic_path(page) as file:
        file.write_text(f'{before.rstrip()}\n\n{begin}\n{text}\n{end}{after}'.lstrip(), encoding='utf-8')
