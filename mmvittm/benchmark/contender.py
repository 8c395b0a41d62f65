"""From a config to a network that is ready to be timed by one or several backends."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..apis.config import build_model, input_size, load_config
from ..apis.tasks import inference_network
from ..errors import UserError
from ..weights import load_weights
from .backends import BACKENDS, Way, training_step
from .ceiling import MatrixProducts, Product
from .complexity import count_macs, count_parameters, count_step_macs
from .memory import PEAKS
from .timing import Run

# What a network raises on images that it cannot take.
_SIZE_ERRORS = (RuntimeError, ValueError, AssertionError)


@dataclass(frozen=True)
class Setup:
    """A config and what of it is run on what.

    Args:
        config (str): The config's path.
        checkpoint (str, optional): Its weights; random without.
        cfg_options (dict): Overrides of the config.
        shape (tuple[int, int], optional): Height and width; the config's test size by default.
        whole_patches (bool): Round the shape down to whole patches of the config's backbone.
        batch_size (int): Images per batch.
        backbone_only (bool): Leave neck and head out.
    """

    config: str
    checkpoint: str | None = None
    cfg_options: dict = field(default_factory=dict)
    shape: tuple[int, int] | None = None
    whole_patches: bool = False
    batch_size: int = 1
    backbone_only: bool = False


@dataclass
class Subject:
    """The network of a setup, built once for all backends, and the work of it."""

    setup: Setup
    network: nn.Module
    images: Tensor
    macs_per_image: float
    products: list[Product]

    @property
    def parameters(self) -> int:
        return count_parameters(self.network)


@dataclass
class Contender:
    """A subject, the way it is run, and one pass of it."""

    subject: Subject
    way: Way
    network: nn.Module
    run: Run

    def peak_memory(self) -> int | None:
        """Bytes that a pass takes; None if the backend or the system does not let it be seen."""
        return PEAKS[self.way.device](self.run) if BACKENDS[self.way.backend].frees_memory else None


def build_subject(setup: Setup, device: str = 'cpu', train: bool = False) -> Subject:
    """Build the network of ``setup`` and run it once, which shows that it takes its images and counts its work.

    Raises:
        UserError: If the config, the checkpoint or the size of the images does not fit.
    """
    cfg = load_config(setup.config, setup.cfg_options)
    height, width = setup.shape or input_size(cfg)
    if setup.whole_patches:
        height, width = floor_to_patches(cfg, height, width)
    model = build_model(cfg)
    if setup.checkpoint:
        load_weights(model, setup.checkpoint)
    network = inference_network(model, setup.backbone_only).to(device)
    channels = cfg.model.get('backbone', {}).get('in_channels', 3)
    images = torch.randn(setup.batch_size, channels, height, width, device=device)
    observed = MatrixProducts()
    try:
        if train:
            # a copy, since a step in training mode may change buffers
            macs = count_step_macs(training_step(copy.deepcopy(network), images), observed) / setup.batch_size
            products = observed.largest()
        else:
            macs = count_macs(network, images[:1], observed)
            products = [(rows * setup.batch_size, *rest) for rows, *rest in observed.largest()]
    except _SIZE_ERRORS as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise UserError(f'config {setup.config} does not run on images of {height}×{width}: {reason}') from error
    return Subject(setup, network, images, macs, products)


def patch_sizes(cfg: Config) -> tuple[int, int]:
    """Height and width that hold whole patches of every embedding of the config's backbone."""
    backbone = cfg.model.get('backbone', {})
    holders = (backbone, backbone.get('memory_embed', {}), backbone.get('process_embed', {}))
    sizes = [holder['patch_size'] for holder in holders if 'patch_size' in holder]
    pairs = [(1, 1), *((size, size) if isinstance(size, int) else tuple(size) for size in sizes)]
    height, width = (math.lcm(*sides) for sides in zip(*pairs, strict=True))
    return height, width


def floor_to_patches(cfg: Config, height: int, width: int) -> tuple[int, int]:
    """The largest size of whole patches within ``height × width``.

    Raises:
        UserError: If there is none.
    """
    rows, columns = patch_sizes(cfg)
    if height < rows or width < columns:
        raise UserError(f'config {cfg.filename} has patches of {rows}×{columns}: {height}×{width} holds none')
    return height // rows * rows, width // columns * columns


def contenders_of(subjects: list[Subject], ways: list[Way]) -> Iterator[Contender]:
    """Every subject in every way; ways come first, so that the networks to compare stand side by side."""
    for way in ways:
        for subject in subjects:
            network = copy.deepcopy(subject.network)
            yield Contender(subject, way, network, BACKENDS[way.backend].prepare(network, subject.images, way))
