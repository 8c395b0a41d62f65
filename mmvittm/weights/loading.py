"""Reading checkpoints without running what they contain, and saying plainly how they differ from a model."""

import logging
import pickle
import re
from collections.abc import Callable
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
from torch import Tensor

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


def weights_of(checkpoint: dict) -> dict[str, Tensor]:
    """The weights in a checkpoint, whether it is a bare state dict or mmengine's."""
    return checkpoint.get('state_dict', checkpoint)
