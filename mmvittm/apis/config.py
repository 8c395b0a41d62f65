"""Read configs, check their values and build models from them."""

import copy
import math
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import yaml
from mmengine.config import Config
from mmengine.fileio import register_handler
from mmengine.fileio.handlers import YamlHandler
from mmengine.registry import MODELS
from torch import nn

from ..errors import UserError, error_text
from .config_errors import RUNNER_KEYS, config_name, dicts_in, did_you_mean, explain_config_errors, in_scope

# The keys that give the test size, in order of precedence.
SIZE_KEYS = (
    'model.data_preprocessor.test_cfg.size',
    'test_size',
    'model.data_preprocessor.size',
    'data_preprocessor.size',
    'crop_size',
    'model.backbone.img_size',
)


# Values that the libraries take although they make no sense, by the end of their place in the config.
_Rule = tuple[Callable[[float], bool], str]
_SHARE: _Rule = (lambda x: 0 <= x < 1, 'at least 0 and below 1')
_POSITIVE: _Rule = (lambda x: 0 < x < math.inf, 'a number above 0')
_RULES: dict[str, _Rule] = {
    'drop_path_rate': _SHARE,
    'clip_grad.max_norm': (lambda x: x > 0, 'a number above 0'),  # inf only logs the norm
    'clip_grad.clip_value': _POSITIVE,
    'data_preprocessor.mean': (math.isfinite, 'finite'),
    'data_preprocessor.std': _POSITIVE,
    'train_cfg.max_iters': _POSITIVE,
    'train_cfg.max_epochs': _POSITIVE,
    'train_cfg.val_interval': _POSITIVE,
}


class _ConfigLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which constructs no Python objects, with the tuples that mmengine writes."""


_ConfigLoader.add_constructor(
    'tag:yaml.org,2002:python/tuple', lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
)


@register_handler(['yaml', 'yml'])
class SafeYamlHandler(YamlHandler):
    """mmengine's YAML reader, which would run the code of ``!!python/object`` tags."""

    def load_from_fileobj(self, file, **kwargs) -> object:
        return super().load_from_fileobj(file, **{'Loader': _ConfigLoader, **kwargs})


def load_config(path: str | Path, cfg_options: dict | None = None) -> Config:
    """Read a config file. Its ``custom_imports`` may name modules beside it and in the working directory.

    Args:
        path (str | Path): A ``.py``, ``.yaml`` or ``.json`` config.
        cfg_options (dict, optional): Overrides such as ``{'model.backbone.arch': 'tiny'}``.

    Raises:
        UserError: If the file or one of its ``_base_`` files is missing or cannot be read, an override does not fit,
            or a value makes no sense.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f'config not found: {path}')
    # behind what is installed, so that a file called test.py hides no package
    sys.path += [folder for folder in (str(path.parent.resolve()), str(Path.cwd())) if folder not in sys.path]
    try:
        cfg = Config.fromfile(path)
        list(dicts_in(cfg))  # mmengine imports the modules of a config when its values are read
    except Exception as error:  # a config is Python code and may raise anything
        raise UserError(f'config {path} cannot be read: {_reading_problem(error)}') from error
    try:
        _check_names(cfg, cfg_options or {})
        cfg.merge_from_dict(cfg_options or {})
    except UserError:
        raise
    except Exception as error:
        raise UserError(f'the overrides {cfg_options} do not fit config {path}: {error_text(error)}') from error
    for place, node in dicts_in(cfg):
        for key, value in node.items():
            _check_value(path, f'{place}.{key}', value)
    return cfg


def _check_names(cfg: Config, options: dict) -> None:
    """Refuse an override that nothing would read."""
    for key in options:
        name = key.partition('.')[0]
        if name not in (known := {*cfg, *RUNNER_KEYS}):
            raise UserError(f'config {cfg.filename} has no {name} to override{did_you_mean(name, known)}')


def _check_value(path: Path, place: str, value: object) -> None:
    for end, (holds, must_be) in _RULES.items():
        numbers = value if isinstance(value, list | tuple) else [value]
        wrong = [x for x in numbers if x is not None and not (isinstance(x, int | float) and holds(x))]
        if place.endswith(end) and wrong:
            raise UserError(f'config {path}: {place} must be {must_be}, not {wrong[0]!r}')


def build_model(cfg: Config) -> nn.Module:
    """Build ``cfg.model`` as mmengine's Runner does, in the config's scope, without loading pretrained weights.

    Raises:
        UserError: If the config has no model or the model cannot be built; see :func:`explain_config_errors`.
    """
    if not isinstance(cfg.get('model'), dict):
        raise UserError(f'{config_name(cfg)} has no `model`: add a dict with a `type`')
    with explain_config_errors(cfg), in_scope(cfg):
        return MODELS.build(_model_config(cfg))


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


def _reading_problem(error: Exception) -> str:
    if isinstance(error, SyntaxError) and error.lineno:
        line = f'line {error.lineno} of it or of a _base_ file'  # mmengine does not tell which
        return f'syntax error at `{(error.text or "").strip()}`, {line} ({error.msg})'
    if '_get_package_and_cfg_path' in str(error):
        return 'a _base_ with `::` works for a few packages of OpenMMLab only, use a relative path'
    if isinstance(error, ModuleNotFoundError) and 'please install' in str(error):
        path = '`_base_ = __import__("mmseg").__path__[0] + "/.mim/configs/…"`'
        return f"{error}; if it is OneDL's, a _base_ with `::` does not find it, use {path}"
    reason = error.__cause__ or error
    # custom_imports: mmengine's error lists sys.path, its cause names the module, and the cause's context what failed
    if isinstance(error.__cause__, ImportError):
        reason = reason.__context__ or reason
    code = [frame for frame in traceback.extract_tb(reason.__traceback__) if frame.name == '<module>']
    where = f' ({code[-1].filename}, line {code[-1].lineno})' if code else ''
    return f'{type(reason).__name__}: {error_text(reason)}{where}'


def _model_config(cfg: Config) -> dict:
    model = copy.deepcopy(cfg.model)
    if 'data_preprocessor' in cfg:
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    return model
