"""Build the components of a ViTTM from their configs and check the numbers in them."""

import inspect
from math import inf
from typing import Any

from mmengine.registry import Registry
from torch import nn

from ..errors import UserError


def build_component(registry: Registry, base: type[nn.Module], cfg: dict, **context: Any) -> Any:
    """Build one component.

    Args:
        registry (Registry): Registry of the component, for instance ``RW_HEADS``.
        base (type): Class that it must derive from, for instance ``RWHead``.
        cfg (dict): ``type`` and the options of the component.
        **context: Widths and numbers of tokens, which the backbone decides. The constructor is passed those that it
            names; an option of the same name in ``cfg`` wins.

    Raises:
        UserError: If the type is unknown or does not derive from ``base``, an option is missing or unknown, or a value
            is out of range.
    """
    if not isinstance(cfg, dict) or 'type' not in cfg:
        raise UserError(f'a {registry.name} is configured by a dict with a "type", not by {cfg!r}')
    cls = cfg['type'] if inspect.isclass(cfg['type']) else registry.get(cfg['type'])
    if cls is None:
        known = ', '.join(sorted(registry.module_dict))
        raise UserError(f'unknown {registry.name} {cfg["type"]!r}: choose one of {known}, or import yours')
    if not issubclass(cls, base):
        raise UserError(f'{registry.name} {cls.__name__} must derive from {base.__module__}.{base.__name__}')
    signature = inspect.signature(cls)
    options = {name: value for name, value in context.items() if name in signature.parameters}
    options |= {name: value for name, value in cfg.items() if name != 'type'}
    try:
        signature.bind(**options)
    except TypeError as error:
        known = ', '.join(signature.parameters)
        raise UserError(f'{registry.name} {cls.__name__} {error}: its options are {known}') from error
    return cls(**options)


def is_per_token(component: nn.Module) -> bool:
    """Return True if the component's own class says ``per_token = True``; what its base class says does not count."""
    return vars(type(component)).get('per_token', False)


def positive_int(name: str, value: Any) -> int:
    """Return ``value`` if it is a whole number above 0, else raise a UserError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f'{name} must be a whole number above 0, not {value!r}')
    return value


def size_2d(name: str, value: Any) -> tuple[int, int]:
    """Return ``(height, width)`` for one number or a pair, else raise a UserError."""
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2:
        raise UserError(f'{name} must be a whole number or a pair (height, width), not {value!r}')
    return positive_int(name, pair[0]), positive_int(name, pair[1])


def hidden_width(name: str, ratio: Any, width: int) -> int:
    """Return ``ratio · width`` rounded down if it is at least 1, else raise a UserError."""
    rounding = 1e-6  # of a ratio that was inferred from a hidden width
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 1 <= ratio * width + rounding < inf:
        raise UserError(f'{name} must be a number of at least 1/{width} for tokens of width {width}, not {ratio!r}')
    return int(ratio * width + rounding)


def drop_probability(name: str, value: Any) -> float:
    """Return ``value`` if it is a number from 0 to below 1, else raise a UserError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise UserError(f'{name} must be a number from 0 to below 1, not {value!r}')
    return value
