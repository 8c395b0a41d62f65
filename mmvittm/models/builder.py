"""Building the parts of a ViTTM, and checking the numbers they are given."""

import inspect
from math import inf
from typing import Any

from mmengine.registry import Registry
from torch import Tensor, nn

from ..errors import UserError


def build_part(registry: Registry, cfg: dict, **given: Any) -> nn.Module:
    """Build one part from its config.

    Args:
        registry (Registry): Where the part is registered.
        cfg (dict): ``type`` and the part's own options.
        **given: What the backbone decides (widths, numbers of tokens); a part gets what its constructor names, and
            its own options come first.

    Raises:
        UserError: If the type is unknown, or an option is missing, not one of the part's, or not within its range.
    """
    if not isinstance(cfg, dict) or 'type' not in cfg:
        raise UserError(f'a {registry.name} is chosen by a dict with a "type", not by {cfg!r}')
    cls = cfg['type'] if inspect.isclass(cfg['type']) else registry.get(cfg['type'])
    if cls is None:
        known = ', '.join(sorted(registry.module_dict))
        raise UserError(f'unknown {registry.name} {cfg["type"]!r}: choose one of {known}')
    options = {key: value for key, value in cfg.items() if key != 'type'}
    accepted = inspect.signature(cls).parameters
    unknown = [key for key in options if key not in accepted]
    if unknown:
        raise UserError(f'{registry.name} {cls.__name__} has no option {unknown[0]!r}: it takes {", ".join(accepted)}')
    options = {key: value for key, value in given.items() if key in accepted} | options
    required = [
        key
        for key, option in accepted.items()
        if option.default is option.empty and option.kind not in (option.VAR_POSITIONAL, option.VAR_KEYWORD)
    ]
    missing = [key for key in required if key not in options]
    if missing:
        raise UserError(f'{registry.name} {cls.__name__} needs the option {missing[0]!r}')
    return cls(**options)


def positive_int(name: str, value: Any) -> int:
    """``value`` if it is a whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f'{name} must be a whole number above 0, not {value!r}')
    return value


def size_2d(name: str, value: Any) -> tuple[int, int]:
    """``(height, width)`` from one number or a pair."""
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2:
        raise UserError(f'{name} must be a whole number or a pair (height, width), not {value!r}')
    return positive_int(name, pair[0]), positive_int(name, pair[1])


def positive_ratio(name: str, value: Any, width: int) -> int:
    """``value · width``, rounded down, if that is at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value * width < inf:
        raise UserError(f'{name} must be a number of at least 1/{width}, the width it multiplies, not {value!r}')
    return int(value * width)


def check_tokens(part: nn.Module, stream: str, built_for: int, tokens: Tensor) -> None:
    """Refuse tokens ``(B, N, C)`` whose number ``N`` is not the one that ``part`` was built for."""
    if tokens.shape[1] != built_for:
        raise UserError(
            f'{type(part).__name__} is built for {built_for} {stream} tokens and got {tokens.shape[1]}: '
            'give images of the img_size of the model, or choose a part that takes any number of tokens'
        )
