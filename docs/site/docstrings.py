"""Extension of griffe, which reads the docstrings: turn the few Sphinx roles in them into Markdown."""

import re

import griffe

ROLE = re.compile(r':\w+:`~?\.?([^`]+)`')
MATH = re.compile(r'^( *)\.\. math:: *((?:.*\n?)(?:\1 +.*\n?)*)', re.MULTILINE)
LINK = re.compile(r'`([^`<]+?)\s*<(https?://[^>]+)>`_')


class Markdown(griffe.Extension):
    """Rewrite every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(text: str) -> str:
    text = MATH.sub(lambda match: f'{match[1]}$${" ".join(match[2].split())}$$\n', text)
    text = LINK.sub(lambda match: f'[{" ".join(match[1].split())}]({match[2]})', text)
    return ROLE.sub(r'`\1`', text).replace('``', '`')
