"""What an exported file tells about itself, so that it can be used without config, checkpoint and data set."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import matplotlib
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from torch import nn

from ..apis.data import innermost_datasets
from ..errors import UserError
from ..version import __version__

Size = tuple[int, int]


@dataclass(frozen=True)
class ModelCard:
    """How to feed an exported network and what its outputs mean.

    An image is fitted to ``shape`` by the rule ``fit`` (see :data:`mmvittm.deploy.preprocess.FITS`), its channels are
    put in ``channel_order``, ``mean`` is subtracted and ``std`` divided by, both in that order, and what is left of
    ``shape`` at the bottom and right is filled with ``pad_value``.

    Attributes:
        task (str): A key of :data:`mmvittm.deploy.tasks.TASKS`.
        shape (tuple[int, int]): Height and width of the input, in pixels.
        fit (str): How an image comes to that shape.
        channel_order (str): 'rgb' or 'bgr'.
        mean (tuple[float, ...]): By channel, for values of 0 … 255.
        std (tuple[float, ...]): By channel.
        pad_value (float): Fills what the image does not cover, after normalisation.
        align_corners (bool): How logits are resized to the image.
        classes (tuple[str, ...]): Names, in the order of the logits.
        palette (tuple[tuple[int, int, int], ...]): RGB colour of each class.
        config (str): Name of the config.
        checkpoint (str, optional): Name of the checkpoint; None if the weights are random.
        version (str): Of mmvittm.
    """

    task: str
    shape: Size
    fit: str
    channel_order: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad_value: float
    align_corners: bool
    classes: tuple[str, ...]
    palette: tuple[tuple[int, ...], ...]
    config: str
    checkpoint: str | None
    version: str = __version__

    def as_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, metadata: dict, path: Path) -> 'ModelCard':
        """Read what :meth:`as_dict` gave and JSON made of it.

        Raises:
            UserError: If something is missing: the file at ``path`` is of another origin.
        """
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in metadata]
        if missing:
            raise UserError(
                f'{path} does not say how to use it ({", ".join(missing)} missing): export it with '
                'tools/deployment/export.py'
            )
        return cls(**{name: _tuples(metadata[name]) for name in names})


def _tuples(value: object) -> object:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def normalisation(preprocessor: nn.Module) -> dict:
    """``channel_order``, ``mean`` and ``std`` of a data preprocessor of mmseg's or mmpretrain's."""
    # mmpretrain's classifiers call it to_rgb, mmengine's own class _channel_conversion
    swapped = getattr(preprocessor, 'to_rgb', False) or getattr(preprocessor, '_channel_conversion', False)
    normalises = getattr(preprocessor, '_enable_normalize', False)
    mean, std = (
        (getattr(preprocessor, name).flatten().tolist() for name in ('mean', 'std'))
        if normalises
        else ([0.0] * 3, [1.0] * 3)
    )
    return dict(channel_order='rgb' if swapped else 'bgr', mean=tuple(mean), std=tuple(std))


def class_names(cfg: Config, checkpoint_meta: dict, count: int) -> dict:
    """``classes`` and ``palette``: the checkpoint's, else those of the config's test data, else numbers and a cycle.

    Args:
        cfg (Config): The model's config.
        checkpoint_meta (dict): The checkpoint's entry ``meta``, empty if it has none.
        count (int): How many classes the model tells apart.

    Raises:
        UserError: If the names are not ``count``.
    """
    meta = {key.lower(): value for key, value in checkpoint_meta.get('dataset_meta', {}).items()} or _data_meta(cfg)
    classes = tuple(meta.get('classes') or map(str, range(count)))
    if len(classes) != count:
        raise UserError(f'the model tells {count} classes apart and the data names {len(classes)}: make them agree')
    palette = meta.get('palette') or _cycle(count)
    return dict(classes=classes, palette=tuple(tuple(int(value) for value in colour) for colour in palette))


def _data_meta(cfg: Config) -> dict:
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    if not loader:
        return {}
    dataset = next(innermost_datasets(loader['dataset']))
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        kind = DATASETS.get(dataset['type'])
    meta = {**getattr(kind, 'METAINFO', {}), **(dataset.get('metainfo') or {})}
    if isinstance(dataset.get('classes'), Sequence) and not isinstance(dataset['classes'], str):
        meta['classes'] = dataset['classes']
    return meta


def _cycle(count: int) -> list[tuple[int, ...]]:
    colours = matplotlib.colormaps['tab20'].colors
    return [tuple(round(255 * value) for value in colours[index % len(colours)]) for index in range(count)]
