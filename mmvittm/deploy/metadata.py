"""Metadata of an exported file, so that it can be used without config, checkpoint and data set."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import nn

from ..apis.tasks import TASKS, Size
from ..errors import UserError
from ..version import __version__


@dataclass(frozen=True)
class ExportMetadata:
    """Preparation of images for an exported network, and the meaning of its outputs.

    The fields are the keys of the JSON in exported files, which outlive a version: they keep their names.
    """

    task: str  #: Key of :data:`mmvittm.apis.tasks.TASKS`.
    shape: Size  #: Height and width of the input, in pixels.
    fit: str  #: How an image is fitted to that shape, a key of :data:`mmvittm.deploy.images.FITS`.
    channel_order: str  #: 'rgb' or 'bgr'.
    mean: tuple[float, ...]  #: Subtracted from each channel, in that order, for values of 0 … 255.
    std: tuple[float, ...]  #: Divides each channel.
    pad_value: float  #: Fills the input below and right of the image, in normalised units.
    align_corners: bool  #: How logits are resized to the image.
    classes: tuple[str, ...]  #: Class names, in the order of the logits.
    palette: tuple[tuple[int, ...], ...]  #: RGB colour of each class.
    config: str  #: Name of the config.
    checkpoint: str | None  #: Name of the checkpoint; None for random weights.
    version: str = __version__  #: Version of mmvittm.

    @classmethod
    def from_dict(cls, metadata: dict, path: Path) -> 'ExportMetadata':
        """Read the metadata of the file ``path``, as JSON gives it.

        Raises:
            UserError: If a key is missing or its value makes no sense.
        """
        again = 'export the model with tools/deployment/export.py'
        if not isinstance(metadata, dict):
            raise UserError(f'{path} has no metadata: {again}')
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in metadata]
        if missing:
            raise UserError(f'{path} has no metadata on {", ".join(missing)}: {again}')
        values = {name: _tuples(metadata[name]) for name in names}
        for name, (is_valid, must_be) in _VALID.items():
            if not is_valid(values[name]):
                raise UserError(f'{path}: {name} must be {must_be}, not {values[name]!r}: {again}')
        if len(values['classes']) != len(values['palette']):
            raise UserError(
                f'{path} has {len(values["classes"])} classes and {len(values["palette"])} colours: {again}'
            )
        return cls(**values)


def _tuples(value: object) -> object:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _all(is_valid: Callable[[Any], bool], length: int | None = None) -> Callable[[object], bool]:
    """Return a check for a tuple of valid items, of this length or of at least one."""
    return lambda value: (
        isinstance(value, tuple) and len(value) == (length or max(len(value), 1)) and all(map(is_valid, value))
    )


#: For each field that inference reads: a check of its value, and the values in words.
_VALID: dict[str, tuple[Callable[[Any], bool], str]] = dict(
    task=(lambda value: value in tuple(TASKS), f'one of {", ".join(TASKS)}'),
    shape=(_all(lambda side: type(side) is int and side > 0, 2), 'two whole numbers above 0'),
    fit=(lambda value: value in [task.fit for task in TASKS.values()], 'a way to fit an image'),
    channel_order=(lambda value: value in ('rgb', 'bgr'), 'rgb or bgr'),
    mean=(_all(_is_number, 3), 'three numbers'),
    std=(_all(lambda std: _is_number(std) and std > 0, 3), 'three numbers above 0'),
    pad_value=(_is_number, 'a number'),
    align_corners=(lambda value: isinstance(value, bool), 'true or false'),
    classes=(_all(lambda name: isinstance(name, str)), 'a list of names'),
    palette=(_all(_all(lambda part: type(part) is int and 0 <= part <= 255, 3)), 'a list of RGB colours'),
)


def normalisation(preprocessor: nn.Module) -> dict:
    """Return ``channel_order``, ``mean`` and ``std`` of a data preprocessor of mmseg or mmpretrain."""
    # of mmpretrain, of OneDL's mmseg and of upstream's
    swaps = any(getattr(preprocessor, name, False) for name in ('to_rgb', '_channel_conversion', 'channel_conversion'))
    mean, std = (0.0,) * 3, (1.0,) * 3
    if getattr(preprocessor, '_enable_normalize', False):
        mean, std = (tuple(values.flatten().tolist()) for values in (preprocessor.mean, preprocessor.std))
    return dict(channel_order='rgb' if swaps else 'bgr', mean=mean, std=std)
