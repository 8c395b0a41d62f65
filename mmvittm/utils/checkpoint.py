"""Reading checkpoints without running what they contain, and saying plainly how they differ from a model."""

import logging
import pickle
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader
from mmengine.utils import digit_version
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import UserError

_np_core = np._core if digit_version(np.__version__) >= digit_version('2.0.0') else np.core


def _history_method(cls: type, name: str) -> Callable:
    """What ``getattr`` may do while unpickling: find the statistics that a HistoryBuffer names."""
    if cls is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise pickle.UnpicklingError(f'GLOBAL {getattr(cls, "__name__", cls)}.{name}')
    return getattr(cls, name)


# What an mmengine checkpoint holds besides tensors: the logged scalars, numpy arrays in a HistoryBuffer.
_MMENGINE_GLOBALS = {
    'builtins.getattr': _history_method,
    **{
        f'{item.__module__}.{item.__name__}': item
        for item in (
            HistoryBuffer,
            np.ndarray,
            np.dtype,
            _np_core.multiarray._reconstruct,
            _np_core.multiarray.scalar,
            *(type(np.dtype(name)) for name in ('float32', 'float64', 'int64', 'uint32')),
        )
    },
}


def load_checkpoint_file(
    path: str | Path, map_location: str | torch.device | None = 'cpu', allow_pickle: bool = False
) -> dict:
    """Read a checkpoint with ``weights_only=True``; mmengine's own log types are let through.

    Args:
        path (str | Path): A file written by mmengine, ``torch.save``, or safetensors (by its suffix).
        map_location (str | torch.device, optional): Where its tensors go. Defaults to ``'cpu'``.
        allow_pickle (bool): Let the file run whatever code it holds. Defaults to False.

    Returns:
        dict: The whole checkpoint; the weights are under ``'state_dict'`` when mmengine wrote it.

    Raises:
        UserError: If the file is missing, truncated, holds no dict, or would run code when unpickled.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f'checkpoint not found: {path}')
    read = _load_safetensors if path.suffix == '.safetensors' else _load_pickle if allow_pickle else _load_weights_only
    try:
        checkpoint = read(path, map_location)
    except pickle.UnpicklingError as error:
        # torch's message goes on for a page; the refused name is what the user needs
        refused = re.search(r'GLOBAL (\S+)', str(error))
        reason = f'it holds {refused[1]}' if refused else str(error).splitlines()[0]
        raise UserError(
            f'checkpoint {path} is not a plain weights file ({reason}): it is not loaded, since that may run code; '
            'if you trust it, train.py and test.py take --allow-pickle'
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(
            f'checkpoint {path} cannot be read, it is truncated or not a checkpoint: copy or download it again '
            f'({str(error).splitlines()[0]})'
        ) from error
    if not isinstance(checkpoint, dict):
        raise UserError(f'checkpoint {path} holds a {type(checkpoint).__name__} where a dict of weights is expected')
    return checkpoint


def _load_safetensors(path: Path, map_location: str | torch.device | None) -> dict[str, Tensor]:
    return load_file(path, device=str(map_location or 'cpu'))


def _load_pickle(path: Path, map_location: str | torch.device | None) -> dict:
    return torch.load(path, map_location=map_location, weights_only=False)


def _load_weights_only(path: Path, map_location: str | torch.device | None) -> dict:
    if digit_version(torch.__version__) >= digit_version('2.6.0'):
        with torch.serialization.safe_globals([(item, name) for name, item in _MMENGINE_GLOBALS.items()]):
            return torch.load(path, map_location=map_location, weights_only=True)
    # Before, the list of types behind weights_only=True cannot be extended like that: the same rule as an unpickler.
    return torch.load(path, map_location=map_location, pickle_module=_restricted_pickle(), weights_only=False)


def _restricted_pickle() -> ModuleType:
    """A stand-in for :mod:`pickle` whose unpickler finds nothing but tensors' parts and mmengine's log types."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str):
            full_name = f'{module.replace("__builtin__", "builtins")}.{name}'
            if full_name in _MMENGINE_GLOBALS:
                return _MMENGINE_GLOBALS[full_name]
            is_dtype = module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype)
            if is_dtype or _TENSOR_PARTS.fullmatch(full_name):
                return super().find_class(module, name)
            raise pickle.UnpicklingError(f'GLOBAL {full_name}')

    module = ModuleType('restricted_pickle')
    module.Unpickler = Unpickler
    module.load = lambda file, **kwargs: Unpickler(file, **kwargs).load()
    return module


_TENSOR_PARTS = re.compile(
    r'collections\.OrderedDict|_codecs\.encode|torch\.(?:\w+Storage|Size|device)'
    r'|torch\._utils\._rebuild_(?:tensor_v2|parameter|parameter_with_state)'
)


def use_safe_loading(allow_pickle: bool = False) -> None:
    """Let mmengine read every checkpoint (``load_from``, ``resume``, ``init_cfg``) through this module.

    Args:
        allow_pickle (bool): Unpickle whatever a file holds instead, which may run code. Defaults to False.
    """

    def load_from_local(filename: str, map_location=None) -> dict:
        return _without_code(filename, load_checkpoint_file(filename, map_location, allow_pickle))

    def load_from_http(filename: str, map_location=None) -> dict:
        return load_from_local(_download(filename), map_location)

    def load_from_elsewhere(filename: str, map_location=None) -> dict:
        raise UserError(f'{filename} is not loaded, since that may run code: download it and give its path')

    # mmengine logs the words behind `load_from_`; its own loaders of other places unpickle what they have downloaded
    safe = {'': load_from_local, 'http://': load_from_http, 'https://': load_from_http}
    for prefix in list(CheckpointLoader._schemes):
        if prefix in safe or not allow_pickle:
            CheckpointLoader.register_scheme(prefix, safe.get(prefix, load_from_elsewhere), force=True)


def _without_code(path: str | Path, checkpoint: dict) -> dict:
    """Runner.resume runs the source of a config that it finds there; mmengine itself does not write one."""
    if checkpoint.get('meta', {}).pop('config', None) is not None:
        print_log(f'{path} holds the source of a config, which is not run', logger='current', level=logging.WARNING)
    return checkpoint


def _download(url: str) -> Path:
    """Put the file into torch's cache if it is not there, the first process before the others."""
    path = Path(torch.hub.get_dir(), 'checkpoints', Path(urlparse(url).path).name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if get_rank() == 0 and not path.is_file():
        _fetch(url, path)
    barrier()
    if not path.is_file():  # on a machine that does not share the cache of the first
        _fetch(url, path)
    return path


def _fetch(url: str, path: Path) -> None:
    try:
        torch.hub.download_url_to_file(url, str(path))
    except (OSError, ValueError) as error:
        raise UserError(f'{url} cannot be downloaded ({error})') from error


INTERRUPTED = 'interrupted.pth'
"""The checkpoint that is saved between the regular ones when a signal stops training."""


def newest_checkpoint(work_dir: str | Path) -> Path | None:
    """The newest whole checkpoint of the training in ``work_dir``; torn ones are passed over with a warning.

    Returns:
        Path, optional: None if training has not saved any.

    Raises:
        UserError: If there are some, but none is whole.
    """
    pointer = Path(work_dir, 'last_checkpoint')
    named = Path(pointer.read_text().strip()) if pointer.is_file() else Path(work_dir, INTERRUPTED)
    found = {path for folder in {Path(work_dir), named.parent} for path in folder.glob('*.pth')}
    regular = re.compile(rf'(?:iter|epoch)_\d+\.pth|{re.escape(INTERRUPTED)}|{re.escape(named.name)}')
    found = {path.resolve(): path for path in found if regular.fullmatch(path.name)}
    for path in sorted(found.values(), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if _is_whole(path):
            return path
        print_log(
            f'checkpoint {path} is torn or damaged: passed over, the one before it is used',
            logger='current',
            level=logging.WARNING,
        )
    if found:
        raise UserError(f'no checkpoint in {work_dir} is whole: start anew in another --work-dir, without --resume')
    return None


def _is_whole(path: Path) -> bool:
    """Whether every part of a file by :func:`torch.save` agrees with its checksum; folders are taken on trust."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError):
        return path.is_dir()


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load ``path`` into ``model``, every key of it; position embeddings of another grid are resampled.

    Raises:
        UserError: If the file cannot be read or does not fit the model.
    """
    state_dict = weights_of(load_checkpoint_file(path))
    if problem := describe_mismatch(model, state_dict):
        raise UserError(f'checkpoint {path} does not fit the model: {problem}')
    model.load_state_dict(state_dict)


def weights_of(checkpoint: dict) -> dict[str, Tensor]:
    """The weights in a checkpoint, whether it is a bare state dict or mmengine's."""
    return checkpoint.get('state_dict', checkpoint)


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
