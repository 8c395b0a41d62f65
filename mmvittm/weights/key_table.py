"""Translation of a state dict's keys from one layout to another, by templates."""

import re
from collections.abc import Mapping

from torch import Tensor

from ..errors import UserError
from .mismatch import listed

# The names that each field of a template matches.
_FIELDS = dict(
    stream='memory|process',
    action='read|write',
    layer=r'\d+',
    n='[12]',
    head_part=r'q|k|v|proj|q_norm|k_norm|v_norm|norm|norm_q|mlp2?\.fc[12]',
    memory_part=r'norm|mlp\.fc[12]',
    param='weight|bias',
)


class KeyTable:
    """Pairs of key templates such as ``'blocks.{layer}.norm{n}.{param}'``, for two layouts of the same weights.

    Args:
        rules (Mapping[str, str]): Template of the source layout -> template of the target layout, with the same fields.
    """

    def __init__(self, rules: Mapping[str, str]) -> None:
        self.rules = dict(rules)
        self._patterns = [(re.compile(_pattern(source)), target) for source, target in self.rules.items()]

    @property
    def inverse(self) -> 'KeyTable':
        """The table from the target layout to the source layout."""
        return KeyTable({target: source for source, target in self.rules.items()})

    def translate_key(self, key: str) -> str | None:
        """Translate one key; return None if no template matches it."""
        for pattern, target in self._patterns:
            if match := pattern.fullmatch(key):
                return target.format(**match.groupdict())
        return None

    def translate(self, state_dict: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
        """Translate all keys.

        Args:
            state_dict (Mapping[str, Tensor]): Weights in the source layout.
            layout (str): Name of the source layout for the error.

        Raises:
            UserError: If a key matches no template or a value is no tensor; the error names all of them.
        """
        translated: dict[str, Tensor] = {}
        problems: dict[str, list[str]] = {'unknown': [], 'no tensor': []}
        for key, value in state_dict.items():
            other = self.translate_key(key)
            if other is None:
                problems['unknown'].append(str(key))
            elif not isinstance(value, Tensor):
                problems['no tensor'].append(key)
            else:
                translated[other] = value
        if any(problems.values()):
            raise UserError(f'these are not weights in the layout of {layout} ({listed(problems)})')
        return translated


def _pattern(template: str) -> str:
    """Turn ``template`` into a regular expression with one named group per field."""
    literals_and_fields = re.split(r'\{(\w+)\}', template)
    return ''.join(
        f'(?P<{piece}>{_FIELDS[piece]})' if index % 2 else re.escape(piece)
        for index, piece in enumerate(literals_and_fields)
    )
