"""Reading checkpoint files, and the weights in them."""

import json
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import UserError
from .mismatch import describe_mismatch
from .unpickling import load_without_code

MapLocation = str | torch.device | None

# Names under which training scripts nest a model's weights.
_NESTS = ('state_dict', 'model')
# Records that torch.save writes are not compressed, so a file that expands further is none of its own.
_MAX_EXPANSION = 20


def load_checkpoint_file(path: str | Path, map_location: MapLocation = 'cpu', allow_pickle: bool = False) -> dict:
    """Read a checkpoint without running code in it, and verify its checksums.

    Args:
        path (str | Path): A file written by mmengine, ``torch.save``, or safetensors (by its suffix).
        map_location (str | torch.device, optional): Device of the loaded tensors. Defaults to ``'cpu'``.
        allow_pickle (bool): Unpickle any type, which may run code in the file. Defaults to False.

    Returns:
        dict: The whole checkpoint; mmengine nests the weights under ``'state_dict'``.

    Raises:
        UserError: If the file is missing, damaged, expands to more than 20 times its size, holds no dict, or holds
            more than weights and log types.
    """
    path = Path(path).expanduser()
    with _explain(path):
        if not path.is_file():
            raise UserError(f'checkpoint not found: {path}')
        verify_records(path)
        if path.suffix == '.safetensors':
            checkpoint: object = load_file(path, device=str(map_location or 'cpu'))
        elif allow_pickle:
            checkpoint = torch.load(path, map_location=map_location, weights_only=False)
        else:
            checkpoint = load_without_code(path, map_location)
    if not isinstance(checkpoint, dict):
        raise UserError(f'checkpoint {path} holds a {type(checkpoint).__name__} where a dict of weights is expected')
    return checkpoint


def verify_records(path: Path) -> None:
    """Verify the size and the checksums of the records in a file of ``torch.save``; torch itself does not.

    Raises:
        UserError: If a record is damaged, or the file expands to more than 20 times its size.
    """
    with _explain(path):
        with path.open('rb') as file:
            if file.read(4) != b'PK\3\4':  # safetensors, or written by torch < 1.6: no checksums
                return
        with zipfile.ZipFile(path) as records:
            size = sum(record.file_size for record in records.infolist())
            if size > _MAX_EXPANSION * path.stat().st_size:
                raise ValueError(f'it would expand to {size:,} bytes, more than {_MAX_EXPANSION} times its size')
            if damaged := records.testzip():
                raise ValueError(f'the checksum of {damaged} is wrong')


@contextmanager
def _explain(path: Path) -> Iterator[None]:
    """Turn an error of a reader, which a damaged or crafted file may let raise anything, into a sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # torch's advice about TorchScript archives
            yield
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        refused = re.search(r'GLOBAL (\S+)|whose module (\S+) is blocked', str(error))
        reason = f' (it holds {refused[1] or refused[2]})' if refused else ''
        raise UserError(
            f'checkpoint {path} is not a plain weights file{reason} and was not loaded, since loading may run code; '
            'if you trust it, pass --allow-pickle to train.py or test.py; for other tools, save its weights alone'
        ) from error
    except Exception as error:
        text = str(error).strip()
        reason = text.splitlines()[0] if text and 'weights_only' not in text else type(error).__name__
        raise UserError(
            f'checkpoint {path} cannot be read, it is truncated or not a checkpoint: copy or download it again '
            f'({reason})'
        ) from error


def load_in_mmengine_layout(
    path: str | Path, map_location: MapLocation = 'cpu', allow_pickle: bool = False
) -> dict[str, Any]:
    """Read a checkpoint as :func:`load_checkpoint_file` does, and arrange it as mmengine would have saved it.

    Returns:
        dict: The checkpoint with its :func:`weights_of` under ``'state_dict'``, and a dict under ``'meta'``.

    Raises:
        UserError: If the checkpoint cannot be read or has no weights.
    """
    checkpoint = load_checkpoint_file(path, map_location, allow_pickle)
    try:
        weights = weights_of(checkpoint)
    except UserError as error:
        raise UserError(f'checkpoint {path}: {error}') from error
    with _explain(Path(path)):
        meta = _metadata(path) if Path(path).suffix == '.safetensors' else checkpoint.get('meta')
    rest = checkpoint if isinstance(checkpoint.get('state_dict'), Mapping) else {}
    return {**rest, 'state_dict': weights, 'meta': meta if isinstance(meta, dict) else {}}


def _metadata(path: str | Path) -> dict[str, Any]:
    """Return the metadata of a safetensors file, whose values are JSON or plain text."""
    with safe_open(Path(path).expanduser(), 'pt') as file:
        metadata = file.metadata() or {}
    for key, value in metadata.items():
        with suppress(ValueError):
            metadata[key] = json.loads(value)
    return metadata


def load_weights(model: nn.Module, path: str | Path) -> dict[str, Any]:
    """Load all weights of ``path`` into ``model`` and return the checkpoint; position embeddings are resampled.

    Raises:
        UserError: If the file cannot be read or does not fit the model.
    """
    checkpoint = load_in_mmengine_layout(path)
    if problem := describe_mismatch(model, checkpoint['state_dict']):
        raise UserError(f'checkpoint {path} does not fit the model: {problem}')
    model.load_state_dict(checkpoint['state_dict'])
    return checkpoint


def weights_of(checkpoint: Mapping) -> dict[str, Tensor]:
    """Return the weights in a checkpoint under the model's own keys.

    Args:
        checkpoint (Mapping): Plain weights, or nested under ``'state_dict'`` or ``'model'``. The prefixes of an EMA or
            of distributed training (``module.``) and of compilation (``_orig_mod.``) are removed from the keys, in any
            combination. The counter of an EMA, ``n_averaged``, is dropped.

    Raises:
        UserError: If there are no weights, values that are not dense tensors, or two for the same key.
    """
    weights = _without_prefixes(checkpoint, ('module', '_orig_mod'))
    for name, value in weights.items():
        if problem := _not_a_weight(value):
            raise UserError(f'{name} is {problem}, where a dense tensor is expected')
    return weights


def _without_prefixes(checkpoint: Mapping, wrappers: tuple[str, ...]) -> dict[str, Tensor]:
    for _ in range(3):  # a crafted file may nest itself
        nest = next((name for name in _NESTS if isinstance(checkpoint.get(name), Mapping)), None)
        checkpoint = checkpoint[nest] if nest else checkpoint
    prefixes = re.compile(rf'^(?:(?:{"|".join(wrappers)})\.)+|(?<=\.)_orig_mod\.')
    weights: OrderedDict[str, Tensor] = OrderedDict()
    names: dict[str, str] = {}
    for name, value in checkpoint.items():
        key = prefixes.sub('', str(name))
        if key == 'n_averaged':
            continue
        if key in names:
            raise UserError(f'{names[key]} and {name} are the same weight: keep one of the models in the file')
        weights[key], names[key] = value, name
    if not weights:
        raise UserError('there are no weights in it')
    versions = getattr(checkpoint, '_metadata', {})  # of the modules that saved the weights
    if isinstance(versions, dict) and all(isinstance(version, dict) for version in versions.values()):
        weights._metadata = versions  # type: ignore[attr-defined]
    return weights


def _not_a_weight(value: object) -> str | None:
    if not isinstance(value, Tensor):
        return f'of type {type(value).__name__}'
    if value.is_sparse or value.layout != torch.strided or value.is_nested:
        return 'a sparse or nested tensor'
    if value.is_quantized or value.is_meta:
        return f'a {"quantised" if value.is_quantized else "meta"} tensor'
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f'an expanded view of shape {tuple(value.shape)}'  # a small file could fill the memory
    return None


def unwrapped(checkpoint: Mapping) -> dict[str, Tensor]:
    """Return what a checkpoint of any training script holds under the model's own keys, for a converter to check.

    As in :func:`weights_of`, but without Lightning's prefix ``model.`` either, and whatever the values are.

    Raises:
        UserError: If there is nothing in it, or two values for the same key.
    """
    return _without_prefixes(checkpoint, ('module', '_orig_mod', 'model'))
