"""Unpickling limited to tensors, containers and the log types that mmengine saves."""

import pickle
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.utils import digit_version

_NUMPY_2 = digit_version(np.__version__) >= digit_version('2.0.0')
_multiarray = import_module('numpy._core.multiarray' if _NUMPY_2 else 'numpy.core.multiarray')


def _history_method(cls: type, name: str) -> Callable:
    """Stand in for ``getattr`` while unpickling: return one of HistoryBuffer's statistics, refuse anything else."""
    if cls is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise pickle.UnpicklingError(f'GLOBAL {getattr(cls, "__name__", cls)}.{name}')
    return getattr(cls, name)


# An mmengine checkpoint holds the logged scalars besides tensors: HistoryBuffers of numpy arrays.
_MMENGINE_GLOBALS = {
    'builtins.getattr': _history_method,
    **{
        f'{item.__module__}.{item.__name__}': item
        for item in (
            HistoryBuffer,
            np.ndarray,
            np.dtype,
            *(type(np.dtype(name)) for name in ('float32', 'float64', 'int64', 'uint32')),
        )
    },
    # numpy 2 renamed `core` to `_core`: a checkpoint written under either loads under the other.
    **{
        f'numpy.{core}.multiarray.{item.__name__}': item
        for core in ('core', '_core')
        for item in (_multiarray._reconstruct, _multiarray.scalar)
    },
}
_TENSOR_GLOBALS = re.compile(
    r'collections\.OrderedDict|_codecs\.encode|torch\.(?:\w+Storage|Size|device)'
    r'|torch\._utils\._rebuild_(?:tensor_v2|parameter|parameter_with_state)'
)


class _RestrictedPickle:
    """Substitute for :mod:`pickle` whose unpickler resolves the allowed names only."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            full_name = f'{module.replace("__builtin__", "builtins")}.{name}'
            if full_name in _MMENGINE_GLOBALS:
                return _MMENGINE_GLOBALS[full_name]
            is_dtype = module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype)
            if is_dtype or _TENSOR_GLOBALS.fullmatch(full_name):
                return super().find_class(module, name)
            raise pickle.UnpicklingError(f'GLOBAL {full_name}')

    @classmethod
    def load(cls, file: BinaryIO, **kwargs: Any) -> object:
        return cls.Unpickler(file, **kwargs).load()


def load_without_code(path: Path, map_location: str | torch.device | None) -> object:
    """Read a file of ``torch.save`` without running code in it.

    Raises:
        pickle.UnpicklingError: If it holds a type that is not allowed; the message has ``GLOBAL <name of the type>``.
    """
    if digit_version(torch.__version__) >= digit_version('2.6.0'):
        with torch.serialization.safe_globals([(item, name) for name, item in _MMENGINE_GLOBALS.items()]):
            return torch.load(path, map_location=map_location, weights_only=True)
    # Older versions cannot extend the types that weights_only=True allows: apply the same rule in an unpickler.
    return torch.load(path, map_location=map_location, pickle_module=_RestrictedPickle, weights_only=False)
