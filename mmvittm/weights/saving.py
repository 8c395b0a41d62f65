"""Weights as the content of a file, the same bytes for the same weights and metadata."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from ..errors import UserError

PYTORCH_SUFFIXES = ('.pth', '.pt', '.ckpt', '.tar')


def check_suffix(path: Path) -> None:
    """Raise a :class:`UserError` unless the suffix is one that :func:`serialize` knows."""
    if path.suffix not in (*PYTORCH_SUFFIXES, '.safetensors'):
        raise UserError(f'cannot write {path}: name it {", ".join(PYTORCH_SUFFIXES)} or .safetensors')


def serialize(state_dict: Mapping[str, Tensor], meta: Mapping[str, object], suffix: str) -> bytes:
    """Serialize weights and ``meta`` as safetensors or as mmengine does, by the suffix of the file.

    The metadata of safetensors are strings; other values become JSON.
    """
    # Copies, since views would be saved with their whole storage, and safetensors refuses shared storage.
    weights = {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in state_dict.items()}
    if suffix == '.safetensors':
        text = {key: value if isinstance(value, str) else json.dumps(value) for key, value in meta.items()}
        return save(weights, metadata=text | dict(format='pt'))
    buffer = io.BytesIO()  # torch.save writes the name of a file into it
    torch.save(dict(meta=dict(meta), state_dict=weights), buffer)
    return buffer.getvalue()


def sha256(path: Path) -> str:
    """Compute the SHA-256 sum of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
