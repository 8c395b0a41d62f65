"""Reading configs and building models from them; what is wrong with a config is said in one sentence."""

import copy
import difflib
import inspect
import re
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import FrameType

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope, Registry
from torch import nn

from ..errors import UserError

# Where a config tells its test size, the most explicit place first.
SIZE_KEYS = (
    'model.data_preprocessor.test_cfg.size',
    'crop_size',
    'model.data_preprocessor.size',
    'data_preprocessor.size',
    'model.backbone.img_size',
)

# What constructors raise on arguments they cannot work with.
_CONSTRUCTOR_ERRORS = (KeyError, TypeError, ValueError, AssertionError, RuntimeError, ArithmeticError)


def load_config(path: str | Path, cfg_options: dict | None = None) -> Config:
    """Read a config file; importing this module has made the ``mmvittm.…`` types known.

    Args:
        path (str | Path): A ``.py``, ``.yaml`` or ``.json`` config.
        cfg_options (dict, optional): Overrides such as ``{'model.backbone.depth': 2}``.

    Raises:
        UserError: If the file or one of its ``_base_`` files is missing or cannot be read, or an override does not
            fit.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f'config not found: {path}')
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is the user's own code and may raise anything
        raise UserError(f'config {path} cannot be read: {_reading_problem(error, path)}') from error
    try:
        cfg.merge_from_dict(cfg_options or {})
    except (KeyError, TypeError, ValueError, AssertionError, IndexError) as error:
        raise UserError(f'the overrides {cfg_options} do not fit config {path}: {_message(error)}') from error
    return cfg


def build_model(cfg: Config) -> nn.Module:
    """Build ``cfg.model`` in the config's own scope as mmengine's Runner does, but load no pretrained weights.

    Raises:
        UserError: If a type or an argument is unknown or missing, or a constructor refuses its arguments; names the
            config, the place in it and the closest known name.
    """
    name = f'config {cfg.filename}' if cfg.filename else 'the config'
    if not isinstance(cfg.get('model'), dict):
        raise UserError(f'{name} has no `model`: a dict with a `type` is expected')
    model = copy.deepcopy(cfg.model)
    if 'data_preprocessor' in cfg:
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        try:
            return MODELS.build(model)
        except _CONSTRUCTOR_ERRORS as error:
            raise UserError(f'{name}: {_building_problem(error, model)}') from error


def input_size(cfg: Config) -> tuple[int, int]:
    """The (height, width) a config is tested at, from the first of :data:`SIZE_KEYS` that it sets.

    Raises:
        UserError: If it sets none of them, or not to one or two whole numbers above 0.
    """
    found = {key: value for key in SIZE_KEYS if (value := _lookup(cfg, key)) is not None}
    if not found:
        raise UserError(f'config {cfg.filename} sets no test size ({", ".join(SIZE_KEYS)}): give one with --shape')
    key, value = next(iter(found.items()))
    size = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise UserError(f'config {cfg.filename}: {key} must be one or two whole numbers above 0, not {value!r}')
    return size


def _lookup(cfg: Config, key: str) -> object:
    node = cfg
    for name in key.split('.'):
        node = node.get(name) if hasattr(node, 'get') else None
    return node


def _message(error: BaseException) -> str:
    """The error's text on one line; a bare ``assert`` is quoted since it has no text."""
    text = ' '.join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    return text or f'`{traceback.extract_tb(error.__traceback__)[-1].line}` does not hold'


def _reading_problem(error: Exception, path: Path) -> str:
    # mmengine reads each file of the chain in a call of its own, and its errors seldom say which file it was
    calls = _calls(error, '_file2dict')
    file = Path(calls[-1].f_locals.get('filename', path) if calls else path)
    base = f'its _base_ {file}' if file.resolve() != path.resolve() else ''
    if base and not file.is_file():
        return f'{base} does not exist'
    if isinstance(error, SyntaxError) and error.lineno:
        problem = f'syntax error in line {error.lineno} ({error.msg})'
    elif '_get_package_and_cfg_path' in str(error):
        problem = 'a _base_ with `::` works for a few packages of OpenMMLab only, give a relative path'
    else:
        reason = error.__cause__ if isinstance(error, ImportError) and error.__cause__ else error
        problem = f'{type(reason).__name__}: {_message(reason)}'  # an ImportError's own text is advice on PYTHONPATH
    return f'{base}: {problem}' if base else problem


def _calls(error: BaseException, function: str) -> list[FrameType]:
    """The calls of ``function`` that ``error`` came through, the innermost last."""
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == function]


def _building_problem(error: Exception, model: ConfigDict) -> str:
    calls = _calls(error, 'build_from_cfg')
    build = calls[-1].f_locals if calls else {}  # mmengine's errors do not say which part was being built
    built = build.get('obj_cls')
    place = _find(model, build.get('cfg')) or 'model'
    for pattern, explain in _EXPLANATIONS.items():
        if match := re.search(pattern, str(error)):
            return f'{place}: {explain(match, built, build.get("registry"))}'
    return f'{place}{f" ({built.__name__})" if inspect.isclass(built) else ""}: {_message(error)}'


def _find(node: object, target: object, place: str = 'model') -> str | None:
    """Where in the config ``target`` itself (not an equal dict) stands, as ``'model.backbone'``."""
    if node is target:
        return place
    children: Iterable = ()
    if isinstance(node, Mapping):
        children = node.items()
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    return next((found for key, child in children if (found := _find(child, target, f'{place}.{key}'))), None)


def _unknown_type(match: re.Match, built: object, registry: Registry | None) -> str:
    return f"unknown type '{match[1]}'{_did_you_mean(match[1], _registered(registry))}"


def _unknown_argument(match: re.Match, built: object, registry: object) -> str:
    classes = built.__mro__[:-1] if inspect.isclass(built) else [built] if callable(built) else []
    known = {name for cls in classes for name in inspect.signature(cls).parameters}
    taker = getattr(built, '__name__', 'it')
    return f"{taker} takes no argument '{match[1]}'{_did_you_mean(match[1], known)}"


def _missing_argument(match: re.Match, built: object, registry: object) -> str:
    return f'{getattr(built, "__name__", "it")} needs the argument {match[1]}'


def _missing_type(match: re.Match, built: object, registry: object) -> str:
    return "the key 'type' is missing"


_EXPLANATIONS: dict[str, Callable[[re.Match, object, Registry | None], str]] = {
    r"([^\s'\"]+) is not in the \S+::.+? registry": _unknown_type,
    r"unexpected keyword argument '(\w+)'": _unknown_argument,
    r'missing \d+ required (?:positional|keyword-only) arguments?: (.+)': _missing_argument,
    r'must contain the key "type"': _missing_type,
}


def _registered(registry: Registry | None) -> set[str]:
    """All names a config may use in ``registry``: its own, its parents', and other packages' with their prefix."""
    names: set[str] = set()
    while registry is not None:
        names.update(registry.module_dict)
        names.update(f'{scope}.{name}' for scope, child in registry.children.items() for name in child.module_dict)
        registry = registry.parent
    return names


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f", did you mean '{close[0]}'?" if close else ''
