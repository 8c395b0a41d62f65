"""Hooks of mkdocs: pages from the repository's root, links, and formulas as MathML, which needs no script."""

import html
import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
FILE = 'https://github.com/mmvittm/mmvittm/blob/main/'
IMAGE = 'https://raw.githubusercontent.com/mmvittm/mmvittm/main/'
ROOT_PAGES = {'README.md': 'index.md', 'CONTRIBUTING.md': 'contributing.md', 'CHANGELOG.md': 'changelog.md'}
# Code is matched first, and left as it is.
LINK = re.compile(r'^```.*?^```|`[^`\n]*`|(?P<before>\]\(|^\[[^\]]+\]: )(?P<target>[^)\s]+)', re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r'<(?:span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</(?:span|div)>', re.DOTALL)


def on_files(files: Files, config: dict) -> Files:
    """Add the pages that stand in the repository's root."""
    for source, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding='utf-8')))
    return files


def on_page_markdown(markdown: str, page, config: dict, files: Files) -> str:
    """Keep links between pages on the site, and let links to other files of the repository lead to GitHub."""
    page_file = page.file.src_uri
    folder = '' if page_file in ROOT_PAGES.values() else posixpath.dirname(f'docs/{page_file}')

    def rewrite(match: re.Match) -> str:
        return match['before'] + site_link(match['target'], folder) if match['before'] else match[0]

    return LINK.sub(rewrite, markdown)


def site_link(target: str, folder: str) -> str:
    """Return a link of a file in ``folder`` of the repository as the site needs it."""
    path, mark, anchor = target.partition('#')
    for prefix in (FILE, IMAGE):
        if path.startswith(prefix):
            path, folder = path.removeprefix(prefix), ''
    path = posixpath.normpath(posixpath.join(folder, path))
    if not target.partition('#')[0] or ':' in path or (folder and path.startswith('docs/')):
        return target  # mkdocs checks it
    if not (ROOT / path).exists():
        raise FileNotFoundError(f'the documentation links to {path}, which does not exist')
    page = ROOT_PAGES.get(path) or (path.removeprefix('docs/') if path.startswith('docs/') else FILE + path)
    return page + mark + anchor


def on_page_content(content: str, **_: object) -> str:
    """Turn formulas into MathML."""
    return FORMULA.sub(lambda match: mathml(match[2], 'block' if match[1] == '[' else 'inline'), content)


def mathml(formula: str, display: str) -> str:
    return convert(html.unescape(formula).replace('{aligned}', '{align*}'), display=display)
