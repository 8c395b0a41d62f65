"""Translating the keys of a state dict from one layout to another."""

import re
from collections.abc import Mapping

from torch import Tensor

from ..errors import UserError
from .mismatch import by_part

# Under which names training scripts nest a model's weights, and what wrappers leave in front of every key.
_NESTS = ('state_dict', 'model')
_WRAPPERS = re.compile(r'^(?:(?:module|_orig_mod|model)\.)+')

# What stands for a name in a template of a key.
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
    """Two layouts side by side: pairs of key templates such as ``'blocks.{layer}.norm{n}.{param}'``.

    Args:
        rules (Mapping[str, str]): Templates of one layout and of the other; both of a pair name the same fields.
    """

    def __init__(self, rules: Mapping[str, str]) -> None:
        self.rules = dict(rules)
        self._patterns = [(re.compile(_pattern(source)), target) for source, target in self.rules.items()]

    @property
    def inverse(self) -> 'KeyTable':
        """The same table read from right to left."""
        return KeyTable({target: source for source, target in self.rules.items()})

    def translate_key(self, key: str) -> str | None:
        """``key`` in the other layout; None if the table does not know it."""
        for pattern, target in self._patterns:
            if match := pattern.fullmatch(key):
                return target.format(**match.groupdict())
        return None

    def translate(self, state_dict: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
        """Translate all keys.

        Args:
            state_dict (Mapping[str, Tensor]): Weights in the layout on the left.
            layout (str): What errors call that layout.

        Raises:
            UserError: Naming every key that the table does not know and every value that is no tensor.
        """
        keys = {key: self.translate_key(key) for key in state_dict}
        unknown = [str(key) for key, other in keys.items() if other is None]
        others = [key for key, other in keys.items() if other and not isinstance(state_dict[key], Tensor)]
        problems = [f'unknown: {by_part(unknown)}'] * bool(unknown) + [f'no tensor: {by_part(others)}'] * bool(others)
        if problems:
            raise UserError(f'these are not weights in the layout of {layout} ({"; ".join(problems)})')
        return {other: state_dict[key] for key, other in keys.items()}


def _pattern(template: str) -> str:
    """A regular expression in which each field of ``template`` is a group of its name."""
    literals_and_fields = re.split(r'\{(\w+)\}', template)
    return ''.join(
        f'(?P<{piece}>{_FIELDS[piece]})' if index % 2 else re.escape(piece)
        for index, piece in enumerate(literals_and_fields)
    )


def unwrapped(checkpoint: Mapping) -> dict[str, Tensor]:
    """The weights of a checkpoint under the model's own keys.

    Args:
        checkpoint (Mapping): Plain weights, or nested under ``'state_dict'`` or ``'model'``, their keys plain or with
            the prefixes of an EMA or of distributed training (``module.``), of compilation (``_orig_mod.``) or of
            Lightning (``model.``), in any combination. The count that an EMA keeps, ``n_averaged``, is left out.

    Raises:
        UserError: If there are no weights, or two for the same key.
    """
    while nest := next((name for name in _NESTS if isinstance(checkpoint.get(name), Mapping)), None):
        checkpoint = checkpoint[nest]
    weights, names = {}, {}
    for name, value in checkpoint.items():
        key = _WRAPPERS.sub('', str(name))
        if key == 'n_averaged':
            continue
        if key in names:
            raise UserError(f'{names[key]} and {name} are weights of the same name: keep one of the models in the file')
        weights[key], names[key] = value, name
    if not weights:
        raise UserError('there are no weights in it')
    return weights
