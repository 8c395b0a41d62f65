"""Making mmengine load every checkpoint without running code in it."""

import hashlib
import logging
from pathlib import Path
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader

from ..errors import UserError
from .loading import MapLocation, load_in_mmengine_layout, verify_records


def use_safe_loading(allow_pickle: bool = False) -> None:
    """Replace the loaders behind mmengine's ``load_from``, ``resume`` and ``init_cfg``.

    Args:
        allow_pickle (bool): Unpickle any type, which may run code in the file. Defaults to False. Places other than
            files and http(s), whose loaders always unpickle, are refused in either case.
    """

    def load_from_local(filename: str | Path, map_location: MapLocation = None) -> dict:
        return _drop_config(filename, load_in_mmengine_layout(filename, map_location, allow_pickle))

    def load_from_http(filename: str, map_location: MapLocation = None) -> dict:
        return load_from_local(_download(filename), map_location)

    def load_from_elsewhere(filename: str | Path, map_location: MapLocation = None) -> dict:
        raise UserError(f'{filename} was not loaded, since loading may run code: download it and pass its path')

    safe = {'': load_from_local, 'http://': load_from_http, 'https://': load_from_http}
    # mmengine logs the part of the loaders' names after `load_from_`
    for prefix in list(CheckpointLoader._schemes):
        CheckpointLoader.register_scheme(prefix, safe.get(prefix, load_from_elsewhere), force=True)


def _drop_config(path: str | Path, checkpoint: dict) -> dict:
    """Drop the source of a config, which Runner.resume would run; mmengine itself does not save one."""
    if checkpoint['meta'].pop('config', None) is not None:
        print_log(f'{path} holds the source of a config, which was dropped', logger='current', level=logging.WARNING)
    return checkpoint


def _download(url: str) -> Path:
    """Download a file into torch's cache unless it is there, on the first process before the others.

    Its name there begins with a hash, since many sites have a ``model.safetensors``.
    """
    name = f'{hashlib.sha256(url.encode()).hexdigest()[:8]}-{Path(urlparse(url).path).name}'
    path = Path(torch.hub.get_dir(), 'checkpoints', name)
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
    try:
        verify_records(path)
    except UserError:
        path.unlink()  # else the damaged file would be found here for ever
        raise
