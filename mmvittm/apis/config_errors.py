"""Sentences for what the libraries raise about a config: the place in it and the reason.

The place is read off the traceback: the innermost frame that builds, or is a method of, something the config describes.
"""

import difflib
import inspect
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import METRICS, OPTIMIZERS, DefaultScope, Registry, build_from_cfg
from mmengine.runner import BaseLoop, Runner, TestLoop, ValLoop
from torch.utils.data import DataLoader

from ..errors import UserError
from ..fileio import atomic_path
from .cli import known_problem

TRACEBACK = 'traceback.log'  # in the work dir
_LONGEST = 400  # characters of a reason; some libraries print whole configs

Node = tuple[str, Mapping]  # a dict of the config, and its place such as 'model.backbone'


class FirstStepHook(Hook):
    """Note in ``done`` which of the loops have ended their first training iteration, or their first evaluation.

    Register it with the priority LOWEST, so that the other hooks belong to the first step.
    """

    def __init__(self) -> None:
        self.done: set[str] = set()

    def after_train_iter(self, *args, **kwargs) -> None:
        """Note a training iteration."""
        self.done.add('train')

    def _after_epoch(self, runner: Runner, mode: str = 'train') -> None:
        """Note an evaluation, which mmengine calls an epoch."""
        self.done.add(mode)


@contextmanager
def explain_config_errors(cfg: Config, first_step: FirstStepHook | None = None) -> Iterator[None]:
    """Turn an error that a part of ``cfg`` causes into a sentence that says which part.

    An error that no part caused is a defect and passes, as do errors after the first step. The traceback of an
    explained error is written to ``traceback.log`` in the config's work dir, if it has one; a UserError needs none and
    only gets the place.

    Args:
        cfg (Config): The config.
        first_step (FirstStepHook, optional): If given, explain every error before the end of the first step.

    Raises:
        UserError: With the config, the place in it, the class, the reason and, for a misspelt name, the closest one.
    """
    try:
        yield
    except Exception as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][::-1]
        says_all = known_problem(error) and not _is_about_a_part(error, frames)
        if says_all or (first_step and _loop_of(frames) in first_step.done):
            raise
        with in_scope(cfg):
            problem = _problem(cfg, error, frames) or (first_step and _reason(error))
        if problem is None:
            raise
        log = '' if isinstance(error, UserError) else _log_traceback(cfg, error)
        raise UserError(f'{config_name(cfg)}: {problem}{log}') from error


@contextmanager
def in_scope(cfg: Config) -> Iterator[None]:
    """Look types up in the scope of the config."""
    scope = cfg.get('default_scope')
    if not isinstance(scope, str | None):
        raise UserError(f'{config_name(cfg)}: default_scope must be a name such as mmseg, not {scope!r}')
    with DefaultScope.overwrite_default_scope(scope):
        yield


def check_metric_arguments(cfg: Config) -> None:
    """Raise a UserError for an argument that a metric of mmseg does not have: they take any and ignore it."""
    with in_scope(cfg):
        for place, node in dicts_in({key: cfg.get(key) for key in ('val_evaluator', 'test_evaluator')}):
            with METRICS.switch_scope_and_registry(node.get('_scope_')) as scoped:
                cls = _find(node.get('type'), scoped)
            if inspect.isclass(cls) and any(base.__module__.startswith('mmseg.') for base in cls.__mro__):
                known = _parameters(cls)
                for key in node.keys() - known - {'type', '_scope_'}:
                    problem = f"unexpected argument '{key}'{_did_you_mean(key, known)}"
                    raise UserError(f'{config_name(cfg)}: {place} ({cls.__name__}): {problem}')


def check_optimizer(cfg: Config) -> None:
    """Raise a UserError for an unknown optimizer, of which mmengine says that None is not callable."""
    with in_scope(cfg):
        for place, node in dicts_in({'optim_wrapper': cfg.get('optim_wrapper')}):
            kind = node.get('type')
            if place.endswith('.optimizer') and isinstance(kind, str) and _find(kind, OPTIMIZERS) is None:
                raise UserError(f'{config_name(cfg)}: {place}: {_unknown(kind, OPTIMIZERS)}')


def config_name(cfg: Config) -> str:
    return f'config {cfg.filename}' if cfg.filename else 'the config'


def error_text(error: BaseException) -> str:
    """Return the text of an error on one line; for a bare ``assert``, which has none, its source."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if 'Original Traceback' in text:  # from a data loader worker
        text = text.strip().rpartition('\n')[2]
    text = ' '.join(text.split()) or f'`{traceback.extract_tb(error.__traceback__)[-1].line}` does not hold'
    return text if len(text) <= _LONGEST else f'{text[:_LONGEST]}…'


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


def _problem(cfg: Config, error: Exception, frames: list[FrameType]) -> str | None:
    """Describe the part of the config that caused ``error``, raised in the first of ``frames``."""
    nodes = list(dicts_in(cfg))
    loading = False
    for depth, frame in enumerate(frames):
        values = frame.f_locals
        owner = values.get('self')
        loading |= isinstance(owner, DataLoader)
        if frame.f_code is build_from_cfg.__code__ and isinstance(values['cfg'], Mapping):
            if place := _place(nodes, values['cfg'], values['cfg'].get('type')):
                return f'{place}{_explanation(values["cfg"], error, values["registry"])}'
        elif isinstance(owner, BaseLoop) and depth > 1:  # the error is in what the loop runs
            return f'{_loop_of(frames)}_dataloader: {_reason(error)}' if loading else None
        elif frame.f_code.co_name == '__init__':
            continue  # the frame that builds it knows the arguments
        elif place := _place(nodes, getattr(owner, '__dict__', {}), type(owner)):
            return f'{place} ({type(owner).__name__}): {_reason(error)}'
    return None


def _is_about_a_part(error: Exception, frames: list[FrameType]) -> bool:
    """Return whether a part of the config raised ``error`` while it was built, without knowing its place."""
    return isinstance(error, UserError) and any(frame.f_code is build_from_cfg.__code__ for frame in frames)


def _loop_of(frames: list[FrameType]) -> str | None:
    """Return 'train', 'val' or 'test' for frames of a loop."""
    owners = (frame.f_locals.get('self') for frame in frames)
    loop = next((owner for owner in owners if isinstance(owner, BaseLoop)), None)
    return loop and ('val' if isinstance(loop, ValLoop) else 'test' if isinstance(loop, TestLoop) else 'train')


def _place(nodes: Iterable[Node], values: Mapping, kind: object) -> str | None:
    """Return the place of the dict of type ``kind`` that agrees best with ``values``, or None."""
    alike = [(place, node) for place, node in nodes if _is_of_type(node, kind)]
    if kind is None:
        alike = [(place, node) for place, node in alike if node and node == values]
    return max(alike, key=lambda item: _agreement(item[1], values), default=(None,))[0]


def _agreement(node: Mapping, values: Mapping) -> int:
    return sum(1 if key in values and _same(node[key], values[key]) else -1 for key in node)


def _is_of_type(node: Mapping, kind: object) -> bool:
    named = node.get('type')
    if inspect.isclass(kind) and isinstance(named, str):
        return named.rpartition('.')[2] == kind.__name__
    return named == kind


def _same(one: object, other: object) -> bool:
    try:
        return bool(one == other)
    except Exception:  # arrays and tensors of several elements
        return False


def _explanation(node: Mapping, error: Exception, registry: Registry) -> str:
    if 'type' not in node:
        return ": the key 'type' is missing"
    with registry.switch_scope_and_registry(node.get('_scope_')) as scoped:
        cls = _find(node['type'], scoped)
        if cls is None:
            return f': {_unknown(str(node["type"]), scoped)}'
    hint = ''
    if isinstance(error, TypeError) and inspect.isclass(cls):
        known = _parameters(cls)
        unknown = [key for key in node if key not in known and f"'{key}'" in str(error)]
        hint = _did_you_mean(unknown[0], known) if unknown else ''
    return f' ({getattr(cls, "__name__", cls)}): {_reason(error)}{hint}'


def _parameters(cls: type) -> set[str]:
    """Return the names of the parameters of a class and of those that it is derived from."""
    return {name for base in cls.__mro__[:-1] for name in inspect.signature(base.__init__).parameters}


def _find(kind: object, registry: Registry) -> object:
    """Return the class of a type, or None if it is in no registry."""
    try:
        return registry.get(kind) if isinstance(kind, str) else kind
    except Exception:  # for '' and for names in a module that does not exist
        return None


def _unknown(name: str, registry: Registry) -> str:
    return f"unknown type '{name}'{_did_you_mean(name, _registered(registry))}"


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
