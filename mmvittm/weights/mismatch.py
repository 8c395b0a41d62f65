"""Differences between a checkpoint's weights and a model's, described by layer kind instead of key by key."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ..errors import UserError


def describe_mismatch(model: nn.Module, state_dict: Mapping[str, Tensor]) -> str | None:
    """Describe why ``state_dict`` cannot be loaded completely into ``model``.

    A position embedding of another length is no difference where the module resamples it on loading.

    Returns:
        str, optional: None if everything fits.
    """
    expected = model.state_dict()
    differences = {
        'missing': [key for key in expected if key not in state_dict],
        'unexpected': [key for key in state_dict if key not in expected],
        'wrong shape': [
            f'{key} {_shape(state_dict[key])} instead of {_shape(value)}'
            for key, value in expected.items()
            if key in state_dict and not _fits(model, key, state_dict[key], value)
        ],
    }
    return listed(differences | _unusable(model, state_dict)) or None


def describe_pretrained(module: nn.Module, state_dict: Mapping[str, Tensor], prefix: str = '') -> str:
    """Describe what ``load_from`` or ``init_cfg=dict(type='Pretrained', prefix=…)`` loads, and what it cannot.

    Args:
        module (nn.Module): The module to load into.
        state_dict (Mapping[str, Tensor]): All weights of the checkpoint.
        prefix (str): Prefix of the keys for this module, such as 'backbone.'.

    Returns:
        str: For example '221 of 225 weights are loaded; resampled: …; not loaded, wrong shape: …'.

    Raises:
        UserError: If nothing would be loaded, or NaN or numbers of another kind.
    """
    prefix = f'{prefix.rstrip(".")}.' if prefix else ''
    given = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
    begins = f'its keys begin with {", ".join(sorted({key.partition(".")[0] for key in state_dict})[:10])}'
    if not given:
        raise UserError(f"no key of the checkpoint begins with '{prefix}': {begins}")
    expected = module.state_dict()
    shapes = {key: f'{key} {_shape(given[key])} for {_shape(expected[key])}' for key in expected if key in given}
    loaded = [key for key in shapes if _fits(module, key, given[key], expected[key])]
    details = {
        'resampled': [shapes[key] for key in loaded if given[key].shape != expected[key].shape],
        'not loaded, wrong shape': [shapes[key] for key in shapes if key not in loaded],
        'not loaded, missing': [key for key in expected if key not in given],
        'unused': [key for key in given if key not in expected],
    }
    if expected and not loaded:
        raise UserError(f'none of {len(expected)} weights can be loaded: {listed(details)}; {begins}')
    if unusable := listed(_unusable(module, given)):
        raise UserError(f'the weights cannot be used: {unusable}')
    return '; '.join(filter(None, (f'{len(loaded)} of {len(expected)} weights are loaded', listed(details))))


def _unusable(module: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """List the weights that fit, but hold integers instead of floats, say, or NaN."""
    expected = module.state_dict()
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    pairs = {
        key: (state_dict[key], value)
        for key, value in expected.items()
        if key in state_dict and _fits(module, key, state_dict[key], value)
    }
    return {
        'wrong type': [
            f'{key} {one.dtype} instead of {other.dtype}'.replace('torch.', '')
            for key, (one, other) in pairs.items()
            if _kind(one) != _kind(other)
        ],
        # a buffer may be infinite, such as a mask
        'NaN or infinite': [
            key
            for key, (value, _) in pairs.items()
            if _kind(value) != 'float8'  # it cannot be asked, and is of the wrong type
            and not bool((value.isfinite() if key in parameters else ~value.isnan()).all())
        ],
    }


def _kind(tensor: Tensor) -> str:
    if tensor.is_floating_point():
        return 'float' if tensor.element_size() > 1 else 'float8'
    return 'complex' if tensor.is_complex() else 'bool' if tensor.dtype == torch.bool else 'int'


def listed(keys_by_kind: Mapping[str, list[str]]) -> str:
    """List keys by kind, with one for all that differ in the layer number only.

    Returns:
        str: For example 'missing: layers.0.q.weight (and 11 like it); unexpected: fc.bias'. Empty without keys.
    """
    return '; '.join(f'{kind}: {_abbreviated(keys)}' for kind, keys in keys_by_kind.items() if keys)


def _abbreviated(keys: Iterable[str], most: int = 4) -> str:
    alike = defaultdict(list)
    for key in keys:
        alike[re.sub(r'(?<=\.)\d+(?=\.)', '*', key)].append(key)
    named = [same[0] if len(same) == 1 else f'{same[0]} (and {len(same) - 1} like it)' for same in alike.values()]
    rest = f' and {len(named) - most} more kinds' if len(named) > most else ''
    return ', '.join(named[:most]) + rest


def _shape(tensor: Tensor) -> str:
    return f'({", ".join(map(str, tensor.shape))})'


def _fits(model: nn.Module, key: str, loaded: Tensor, expected: Tensor) -> bool:
    owner, _, name = key.rpartition('.')
    if name == 'pos_embed' and loaded.ndim == expected.ndim == 3 and _changes_weights(model.get_submodule(owner)):
        return loaded.shape[::2] == expected.shape[::2]
    return loaded.shape == expected.shape


def _changes_weights(module: nn.Module) -> bool:
    """Return True if the module changes weights on loading: ours and mmpretrain's ViTs resample positions."""
    own_loading = type(module)._load_from_state_dict is not nn.Module._load_from_state_dict
    return own_loading or bool(module._load_state_dict_pre_hooks)
