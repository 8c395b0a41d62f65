"""Read configs, build models from them, and say where in a config an error comes from."""

import copy
import difflib
import inspect
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mmengine import registry as mmengine_registries
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, Registry
from torch import nn

from ..errors import UserError

# The keys that give the test size, in order of precedence.
SIZE_KEYS = (
    'model.data_preprocessor.test_cfg.size',
    'crop_size',
    'model.data_preprocessor.size',
    'data_preprocessor.size',
    'model.backbone.img_size',
)

# The mmengine registry that builds the dict under a key. Other keys use the registry of the dict around them.
_REGISTRY_OF_KEY = dict(
    model='MODELS',
    data_preprocessor='MODELS',
    dataset='DATASETS',
    sampler='DATA_SAMPLERS',
    pipeline='TRANSFORMS',
    transforms='TRANSFORMS',
    optim_wrapper='OPTIM_WRAPPERS',
    optimizer='OPTIMIZERS',
    param_scheduler='PARAM_SCHEDULERS',
    val_evaluator='METRICS',
    test_evaluator='METRICS',
    default_hooks='HOOKS',
    custom_hooks='HOOKS',
    visualizer='VISUALIZERS',
    vis_backends='VISBACKENDS',
    train_cfg='LOOPS',
    val_cfg='LOOPS',
    test_cfg='LOOPS',
)


def load_config(path: str | Path, cfg_options: dict | None = None) -> Config:
    """Read a config file. Its ``custom_imports`` may name modules beside it and in the working directory.

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
    # behind what is installed, so that a file called test.py hides no package
    sys.path += [folder for folder in (str(path.parent.resolve()), str(Path.cwd())) if folder not in sys.path]
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is Python code and may raise anything
        raise UserError(f'config {path} cannot be read: {_reading_problem(error)}') from error
    try:
        cfg.merge_from_dict(cfg_options or {})
    except (KeyError, TypeError, ValueError, AssertionError, IndexError) as error:
        raise UserError(f'the overrides {cfg_options} do not fit config {path}: {_message(error)}') from error
    return cfg


def build_model(cfg: Config) -> nn.Module:
    """Build ``cfg.model`` as mmengine's Runner does, in the config's scope, without loading pretrained weights.

    Raises:
        UserError: If the config has no model or the model cannot be built; see :func:`explain_config_errors`.
    """
    if not isinstance(cfg.get('model'), dict):
        raise UserError(f'{_name(cfg)} has no `model`: add a dict with a `type`')
    with explain_config_errors(cfg), DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        return MODELS.build(_model_config(cfg))


@contextmanager
def explain_config_errors(cfg: Config) -> Iterator[None]:
    """Turn an error that a part of ``cfg`` causes into a sentence that says which part.

    The part is found by building the parts of the config one by one, innermost first: it is the first that raises the
    same error on its own. An error that no part reproduces is not the config's, and is left as it is.

    Raises:
        UserError: With the config, the place in it, the class, the reason and, for a misspelt name, the closest one.
    """
    try:
        yield
    except Exception as error:
        parts = dict(cfg.items()) | ({'model': _model_config(cfg)} if 'model' in cfg else {})
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
            problem = _problem(parts, error)
        if problem is None:
            raise
        raise UserError(f'{_name(cfg)}: {problem}') from error


def input_size(cfg: Config) -> tuple[int, int]:
    """Return the test size (height, width), from the first of :data:`SIZE_KEYS` that the config sets.

    Raises:
        UserError: If it sets none of them, or one to anything but one or two positive integers.
    """
    found = {key: value for key in SIZE_KEYS if (value := _lookup(cfg, key)) is not None}
    if not found:
        raise UserError(f'config {cfg.filename} sets no test size ({", ".join(SIZE_KEYS)}): pass --shape')
    key, value = next(iter(found.items()))
    size = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise UserError(f'config {cfg.filename}: {key} must be one or two positive integers, not {value!r}')
    return size


def _lookup(cfg: Config, key: str) -> object:
    node = cfg
    for name in key.split('.'):
        node = node.get(name) if hasattr(node, 'get') else None
    return node


def _name(cfg: Config) -> str:
    return f'config {cfg.filename}' if cfg.filename else 'the config'


def _message(error: BaseException) -> str:
    """Return the text of an error on one line; for a bare ``assert``, which has none, its source."""
    text = ' '.join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    return text or f'`{traceback.extract_tb(error.__traceback__)[-1].line}` does not hold'


def _reading_problem(error: Exception) -> str:
    if isinstance(error, SyntaxError) and error.lineno:
        line = f'line {error.lineno} of it or of a _base_ file'  # mmengine does not tell which
        return f'syntax error at `{(error.text or "").strip()}`, {line} ({error.msg})'
    if '_get_package_and_cfg_path' in str(error):
        return 'a _base_ with `::` works for a few packages of OpenMMLab only, use a relative path'
    reason = error.__cause__ or error  # mmengine's ImportError lists sys.path, its cause names the module
    code = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == '<module>']
    where = f' ({code[-1].filename}, line {code[-1].lineno})' if code else ''
    return f'{type(reason).__name__}: {_message(reason)}{where}'


def _model_config(cfg: Config) -> dict:
    model = copy.deepcopy(cfg.model)
    if 'data_preprocessor' in cfg:
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    return model


def _problem(node: object, error: Exception, place: str = '', registry: Registry | None = None) -> str | None:
    """Describe the innermost dict in ``node`` that raises ``error`` when ``registry`` builds it."""
    children: Iterable = ()
    if isinstance(node, Mapping):
        children = node.items()
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    for key, child in children:
        name = _REGISTRY_OF_KEY.get(key)
        inner = getattr(mmengine_registries, name) if name else registry
        if problem := _problem(child, error, f'{place}.{key}'.lstrip('.'), inner):
            return problem
    if registry is None or not isinstance(node, Mapping):
        return None
    try:
        registry.build(copy.deepcopy(node))
    except Exception as own:
        if type(own) is type(error) and str(own) == str(error):
            return f'{place}{_explanation(node, error, registry)}'
    return None


def _explanation(node: Mapping, error: Exception, registry: Registry) -> str:
    if 'type' not in node:
        return ": the key 'type' is missing"
    with registry.switch_scope_and_registry(node.get('_scope_')) as scoped:
        cls = scoped.get(node['type']) if isinstance(node['type'], str) else node['type']
        if cls is None:
            return f": unknown type '{node['type']}'{_did_you_mean(node['type'], _registered(scoped))}"
    hint = ''
    if isinstance(error, TypeError) and inspect.isclass(cls):
        known = {name for base in cls.__mro__[:-1] for name in inspect.signature(base.__init__).parameters}
        unknown = [key for key in node if key not in known and f"'{key}'" in str(error)]
        hint = _did_you_mean(unknown[0], known) if unknown else ''
    return f' ({getattr(cls, "__name__", cls)}): {_message(error)}{hint}'


def _registered(registry: Registry) -> set[str]:
    """Return the names a config may use in ``registry``: its own, its parents' and, with a prefix, other packages'."""
    names: set[str] = set()
    while registry is not None:
        names.update(registry.module_dict)
        names.update(f'{scope}.{name}' for scope, child in registry.children.items() for name in child.module_dict)
        registry = registry.parent
    return names


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f", did you mean '{close[0]}'?" if close else ''
