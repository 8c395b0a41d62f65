"""Sentences for what the libraries raise about a config: the place in it and the reason.

While a config is in use, the registries note on an error which dicts they were building, the innermost first.
"""

import difflib
import inspect
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import METRICS, OPTIMIZERS, DefaultScope, Registry, root
from mmengine.runner import FlexibleRunner, Runner

from ..errors import UserError, error_text
from ..fileio import atomic_path
from ..registry import type_name
from .cli import known_problem

TRACEBACK = 'traceback.log'  # in the work dir
_MMSEG_LAYER_DECAY = ('LearningRateDecayOptimizerConstructor', 'LayerDecayOptimizerConstructor')
_PARTS = 'config_parts'  # attribute of an error
# The keys of a config that mmengine's Runners or our tools read.
RUNNER_KEYS = (
    *inspect.signature(FlexibleRunner).parameters, *inspect.signature(Runner).parameters,
    'activation_checkpointing', 'cudnn_benchmark', 'efficient_conv_bn_eval', 'find_unused_parameters',
    'model_wrapper_cfg', 'runner_type', 'sync_bn', 'test_pipeline', 'test_size', 'tta_model', 'tta_pipeline',
)  # fmt: skip

Node = tuple[str, Mapping]  # a dict of the config, and its place such as 'model.backbone'


class FirstStepHook(Hook):
    """Note which loop runs, and in ``done`` which loops have ended their first training iteration or evaluation.

    Register it with the priority LOWEST, so that the other hooks belong to the first step.
    """

    def __init__(self) -> None:
        self.loop: str | None = None
        self.done: set[str] = set()

    def _before_epoch(self, runner: Runner, mode: str = 'train') -> None:
        self.loop = mode

    def after_train_iter(self, *args, **kwargs) -> None:
        """Note a training iteration."""
        self.done.add('train')

    def _after_epoch(self, runner: Runner, mode: str = 'train') -> None:
        """Note an evaluation, which mmengine calls an epoch; one during training returns to it."""
        self.done.add(mode)
        self.loop = 'train'


@contextmanager
def explain_config_errors(cfg: Config, first_step: FirstStepHook | None = None) -> Iterator[None]:
    """Turn an error from building a part of ``cfg`` into a sentence that says which part.

    Other errors are defects and pass, but with ``first_step`` all errors before the end of a loop's first step are the
    config's. The traceback of an explained error is written to ``traceback.log`` in the config's work dir, if it has
    one; a UserError needs none and only gets the place.

    Args:
        cfg (Config): The config.
        first_step (FirstStepHook, optional): A hook of the runner. If given, explain the errors of first steps too.

    Raises:
        UserError: With the config, the place in it, the class, the reason and, for a misspelt name, the closest one.
    """
    try:
        with _noted_parts():
            yield
    except Exception as error:
        parts = ((_place(cfg, node), node, registry) for node, registry in getattr(error, _PARTS, ()))
        place, node, registry = next((part for part in parts if part[0]), (None, None, None))
        says_all = known_problem(error) and not (place and isinstance(error, UserError))
        if says_all or (first_step and first_step.loop in first_step.done) or not (place or first_step):
            raise
        if place:
            with in_scope(cfg):
                problem = f'{place}{_explanation(node, error, registry)}'
        else:
            problem = f'the first step of the {first_step.loop} loop failed: ' * bool(first_step.loop) + _reason(error)
        log = '' if isinstance(error, UserError) else _log_traceback(cfg, error)
        raise UserError(f'{config_name(cfg)}: {problem}{log}') from error


@contextmanager
def _noted_parts() -> Iterator[None]:
    """Let every registry add the dict that it builds, and itself, to the attribute ``_PARTS`` of an error."""

    def noting(build: Callable) -> Callable:
        def call(cfg: Mapping, *args, registry: Registry, **kwargs) -> object:
            try:
                return build(cfg, *args, registry=registry, **kwargs)
            except Exception as error:
                vars(error).setdefault(_PARTS, []).append((cfg, registry))
                raise

        return call

    builders = {registry: registry.build_func for registry in _with_children(vars(root).values())}
    try:
        for registry, build in builders.items():
            registry.build_func = noting(build)
        yield
    finally:
        for registry, build in builders.items():
            registry.build_func = build


def _with_children(values: Iterable[object]) -> Iterator[Registry]:
    for value in values:
        if isinstance(value, Registry):
            yield value
            yield from _with_children(value.children.values())


@contextmanager
def in_scope(cfg: Config) -> Iterator[None]:
    """Look types up in the scope of the config."""
    scope = cfg.get('default_scope')
    if not isinstance(scope, str | None):
        raise UserError(f'{config_name(cfg)}: default_scope must be a name such as mmseg, not {scope!r}')
    with DefaultScope.overwrite_default_scope(scope):
        yield


def check_metric_arguments(cfg: Config) -> None:
    """Raise a UserError for an argument that a metric of mmseg would ignore, or a top-k of more than the classes."""
    head = (cfg.get('model') or {}).get('head')
    classes = head.get('num_classes') if isinstance(head, Mapping) else None
    with in_scope(cfg):
        for place, node in dicts_in({key: cfg.get(key) for key in ('val_evaluator', 'test_evaluator')}):
            with METRICS.switch_scope_and_registry(node.get('_scope_')) as scoped:
                cls = find_class(node.get('type'), scoped)
            top = node.get('topk')
            most = max((k for k in (top if isinstance(top, list | tuple) else [top]) if isinstance(k, int)), default=0)
            if isinstance(classes, int) and most > classes:
                raise UserError(f'{config_name(cfg)}: {place}: topk of {most} with {classes} classes: set topk=(1,)')
            if inspect.isclass(cls) and any(base.__module__.startswith('mmseg.') for base in cls.__mro__):
                known = _parameters(cls)
                for key in node.keys() - known - {'type', '_scope_'}:
                    problem = f"unexpected argument '{key}'{did_you_mean(key, known)}"
                    raise UserError(f'{config_name(cfg)}: {place} ({cls.__name__}): {problem}')


def check_optimizer(cfg: Config) -> None:
    """Raise a UserError for an unknown optimizer, which mmengine calls not callable, and for mmseg's layer decay."""
    backbone = (cfg.get('model') or {}).get('backbone') or {}
    is_vittm = type_name(backbone).endswith('ViTTM')
    with in_scope(cfg):
        for place, node in dicts_in({'optim_wrapper': cfg.get('optim_wrapper')}):
            kind = node.get('type')
            if is_vittm and type_name(node, 'constructor').endswith(_MMSEG_LAYER_DECAY):
                raise UserError(
                    f'{config_name(cfg)}: {place}: the layer decay of mmseg knows no ViTTM, use '
                    "constructor='mmvittm.LayerDecayOptimWrapperConstructor'"
                )
            if place.endswith('.optimizer') and isinstance(kind, str) and find_class(kind, OPTIMIZERS) is None:
                raise UserError(f'{config_name(cfg)}: {place}: {_unknown(kind, OPTIMIZERS)}')


def config_name(cfg: Config) -> str:
    """Return what messages call a config."""
    return f'config {cfg.filename}' if cfg.filename else 'the config'


def dicts_in(node: object, place: str = '') -> Iterator[Node]:
    """Yield the place and content of all dicts below ``node``, outer ones first."""
    is_dict = isinstance(node, Mapping | Config)
    if is_dict and place:
        yield place, node
    for key, child in node.items() if is_dict else enumerate(node) if isinstance(node, list | tuple) else ():
        yield from dicts_in(child, f'{place}.{key}'.lstrip('.'))


def _reason(error: BaseException) -> str:
    """Return the text of an error, after its type if it is no sentence, such as the key of a KeyError."""
    text = error_text(error)
    return text if ' ' in text else f'{type(error).__name__}: {text}'


def _log_traceback(cfg: Config, error: Exception) -> str:
    if not cfg.get('work_dir'):
        return ''
    path = Path(cfg.work_dir, TRACEBACK)
    with suppress(UserError, OSError), atomic_path(path) as temporary:
        temporary.write_text(''.join(traceback.format_exception(error)), encoding='utf-8')
        return f' (traceback: {path})'
    return ''


def _place(cfg: Config, part: object) -> str | None:
    """Return the place of the dict that agrees best with ``part``, a copy of it that may have got more values."""
    if not isinstance(part, Mapping):
        return None
    alike = [(place, node) for place, node in dicts_in(cfg) if node.get('type') == part.get('type')]
    if 'type' not in part:
        alike = [(place, node) for place, node in alike if node == part]
    return max(alike, key=lambda item: _agreement(item[1], part), default=(None,))[0]


def _agreement(node: Mapping, values: Mapping) -> int:
    return sum(1 if key in values and _same(node[key], values[key]) else -1 for key in node)


def _same(one: object, other: object) -> bool:
    try:
        return bool(one == other)
    except Exception:  # arrays and tensors of several elements
        return False


def _explanation(node: Mapping, error: Exception, registry: Registry) -> str:
    if 'type' not in node:
        return ": the key 'type' is missing"
    with registry.switch_scope_and_registry(node.get('_scope_')) as scoped:
        cls = find_class(node['type'], scoped)
        if cls is None:
            return f': {_unknown(str(node["type"]), scoped)}'
    hint = ''
    if isinstance(error, TypeError) and inspect.isclass(cls):
        known = _parameters(cls)
        unknown = [key for key in node if key not in known and f"'{key}'" in str(error)]
        hint = did_you_mean(unknown[0], known) if unknown else ''
    return f' ({getattr(cls, "__name__", cls)}): {_reason(error)}{hint}'


def _parameters(cls: type) -> set[str]:
    """Return the names of the parameters of a class and of those that it is derived from."""
    return {name for base in cls.__mro__[:-1] for name in inspect.signature(base.__init__).parameters}


def find_class(kind: object, registry: Registry) -> object:
    """Return the class of a type, or None if it is in no registry."""
    try:
        return registry.get(kind) if isinstance(kind, str) else kind
    except Exception:  # for '' and for names in a module that does not exist
        return None


def _unknown(name: str, registry: Registry) -> str:
    return f"unknown type '{name}'{did_you_mean(name, _registered(registry))}"


def _registered(registry: Registry) -> set[str]:
    """Return the names a config may use in ``registry``: its own, its parents' and, with a prefix, other packages'."""
    names: set[str] = set()
    while registry is not None:
        names.update(registry.module_dict)
        names.update(f'{scope}.{name}' for scope, child in registry.children.items() for name in child.module_dict)
        registry = registry.parent
    return names


def did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f", did you mean '{close[0]}'?" if close else ''
