"""How the weights of a checkpoint differ from those of a model, by part instead of by key."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from ..errors import UserError
from .loading import load_checkpoint_file, weights_of


def load_weights(model: nn.Module, path: str | Path) -> dict:
    """Load all weights of ``path`` into ``model`` and return the file; position embeddings are resampled to its grid.

    Raises:
        UserError: If the file cannot be read or does not fit the model.
    """
    checkpoint = load_checkpoint_file(path)
    if problem := describe_mismatch(model, weights_of(checkpoint)):
        raise UserError(f'checkpoint {path} does not fit the model: {problem}')
    model.load_state_dict(weights_of(checkpoint))
    return checkpoint


def describe_mismatch(model: nn.Module, state_dict: dict[str, Tensor]) -> str | None:
    """How ``state_dict`` differs from what ``model`` expects, by part instead of by key.

    A position embedding of another length is no difference: models resample it on loading.

    Returns:
        str, optional: None if everything fits.
    """
    expected = model.state_dict()
    shared = expected.keys() & state_dict.keys()
    differing = {
        'missing': [key for key in expected if key not in state_dict],
        'unexpected': [key for key in state_dict if key not in expected],
        'of another shape': [
            f'{key} {_shape(state_dict[key])} instead of {_shape(expected[key])}'
            for key in expected
            if key in shared and not _fits(key, state_dict[key], expected[key])
        ],
    }
    parts = [f'{kind}: {by_part(keys)}' for kind, keys in differing.items() if keys]
    return '; '.join(parts) or None


def describe_pretrained(module: nn.Module, state_dict: dict[str, Tensor], prefix: str = '') -> str:
    """What an ``init_cfg=dict(type='Pretrained', prefix=…)`` puts into ``module``, and what it cannot.

    Args:
        module (nn.Module): The module that has the ``init_cfg``.
        state_dict (dict[str, Tensor]): All weights of the checkpoint.
        prefix (str): That of the keys that are for this module, such as 'backbone.'.

    Returns:
        str: Such as '221 of 225 weights are loaded, resampled: …; left as initialised, since of another shape: …'.

    Raises:
        UserError: If no key has the prefix.
    """
    prefix = f'{prefix.rstrip(".")}.' if prefix else ''
    given = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
    if not given:
        begins = sorted({key.partition('.')[0] for key in state_dict})
        raise UserError(f"no key of the checkpoint begins with '{prefix}': its keys begin with {', '.join(begins)}")
    expected = module.state_dict()
    shared = {key: f'{key} {_shape(given[key])} for {_shape(expected[key])}' for key in expected if key in given}
    fitting = [key for key in shared if _fits(key, given[key], expected[key])]
    details = {
        'resampled': [shared[key] for key in fitting if given[key].shape != expected[key].shape],
        'left as initialised, since of another shape': [shared[key] for key in shared if key not in fitting],
        'left as initialised, since missing': [key for key in expected if key not in given],
        'not used': [key for key in given if key not in expected],
    }
    parts = [f'{what}: {by_part(keys)}' for what, keys in details.items() if keys]
    return '; '.join([f'{len(fitting)} of {len(expected)} weights are loaded', *parts])


def _shape(tensor: Tensor) -> str:
    return f'({", ".join(map(str, tensor.shape))})'


def _fits(key: str, loaded: Tensor, expected: Tensor) -> bool:
    if key.rpartition('.')[2] == 'pos_embed' and loaded.ndim == expected.ndim == 3:
        return loaded.shape[::2] == expected.shape[::2]
    return loaded.shape == expected.shape


def by_part(keys: Iterable[str], most: int = 4) -> str:
    """Name keys briefly: one for all that differ in a layer's number only, ``layers.0.q.weight (and 11 like it)``."""
    alike = defaultdict(list)
    for key in keys:
        alike[re.sub(r'(?<=\.)\d+(?=\.)', '*', key)].append(key)
    named = [same[0] if len(same) == 1 else f'{same[0]} (and {len(same) - 1} like it)' for same in alike.values()]
    rest = f' and {len(named) - most} more kinds' if len(named) > most else ''
    return ', '.join(named[:most]) + rest
