"""Reading checkpoint files, and the weights in them."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import UserError
from .mismatch import describe_mismatch
from .unpickling import load_without_code

MapLocation = str | torch.device | None

# Names under which training scripts nest a model's weights, and prefixes that wrappers put before every key.
_NESTS = ('state_dict', 'model')
_WRAPPERS = re.compile(r'^(?:(?:module|_orig_mod|model)\.)+')


def load_checkpoint_file(path: str | Path, map_location: MapLocation = 'cpu', allow_pickle: bool = False) -> dict:
    """Read a checkpoint without running code in it.

    Args:
        path (str | Path): A file written by mmengine, ``torch.save``, or safetensors (by its suffix).
        map_location (str | torch.device, optional): Device of the loaded tensors. Defaults to ``'cpu'``.
        allow_pickle (bool): Unpickle any type, which may run code in the file. Defaults to False.

    Returns:
        dict: The whole checkpoint; mmengine nests the weights under ``'state_dict'``.

    Raises:
        UserError: If the file is missing or truncated, holds no dict, or holds more than weights and log types.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f'checkpoint not found: {path}')
    checkpoint: object
    try:
        if path.suffix == '.safetensors':
            checkpoint = load_file(path, device=str(map_location or 'cpu'))
        elif allow_pickle:
            checkpoint = torch.load(path, map_location=map_location, weights_only=False)
        else:
            checkpoint = load_without_code(path, map_location)
    except pickle.UnpicklingError as error:
        # torch's message fills a page; users need the refused name.
        refused = re.search(r'GLOBAL (\S+)', str(error))
        reason = f'it holds {refused[1]}' if refused else str(error).splitlines()[0]
        raise UserError(
            f'checkpoint {path} is not a plain weights file ({reason}) and was not loaded, since loading may run code; '
            'if you trust it, pass --allow-pickle to train.py or test.py'
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(
            f'checkpoint {path} cannot be read, it is truncated or not a checkpoint: copy or download it again '
            f'({str(error).splitlines()[0]})'
        ) from error
    if not isinstance(checkpoint, dict):
        raise UserError(f'checkpoint {path} holds a {type(checkpoint).__name__} where a dict of weights is expected')
    return checkpoint


def load_weights(model: nn.Module, path: str | Path) -> dict:
    """Load all weights of ``path`` into ``model`` and return the checkpoint; position embeddings are resampled.

    Raises:
        UserError: If the file cannot be read or does not fit the model.
    """
    checkpoint = load_checkpoint_file(path)
    weights = weights_of(checkpoint)
    if problem := describe_mismatch(model, weights):
        raise UserError(f'checkpoint {path} does not fit the model: {problem}')
    model.load_state_dict(weights)
    return checkpoint


def weights_of(checkpoint: dict) -> dict[str, Tensor]:
    """Return the weights in a checkpoint of mmengine or a bare state dict."""
    return checkpoint.get('state_dict', checkpoint)


def unwrapped(checkpoint: Mapping) -> dict[str, Tensor]:
    """Return the weights in a checkpoint of any training script, under the model's own keys.

    Args:
        checkpoint (Mapping): Plain weights, or nested under ``'state_dict'`` or ``'model'``. Keys may have the
            prefixes of an EMA or of distributed training (``module.``), of compilation (``_orig_mod.``) or of
            Lightning (``model.``), in any combination. The counter of an EMA, ``n_averaged``, is dropped.

    Raises:
        UserError: If there are no weights, or two for the same key.
    """
    while nest := next((name for name in _NESTS if isinstance(checkpoint.get(name), Mapping)), None):
        checkpoint = checkpoint[nest]
    weights: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for name, value in checkpoint.items():
        key = _WRAPPERS.sub('', str(name))
        if key == 'n_averaged':
            continue
        if key in names:
            raise UserError(f'{names[key]} and {name} are the same weight: keep one of the models in the file')
        weights[key], names[key] = value, name
    if not weights:
        raise UserError('there are no weights in it')
    return weights
