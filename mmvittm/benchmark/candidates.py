"""Candidates: models built from configs, to be timed against each other."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..apis.config import build_model, input_size, load_config
from ..apis.tasks import inference_network
from ..errors import UserError
from ..weights import load_weights
from .complexity import Gemm, count_forward, count_work, largest
from .modes import BACKENDS, RunMode, training_step
from .timing import Run


@dataclass(frozen=True)
class Candidate:
    """A network with its images and its work; :meth:`in_mode` makes it ready to run."""

    config: str
    checkpoint: str | None
    network: nn.Module
    images: Tensor
    macs_per_image: float
    gemms: list[Gemm]  # the largest three
    mode: RunMode | None = None
    run: Run | None = None

    def in_mode(self, mode: RunMode) -> 'Candidate':
        """Prepare a copy of the network to run in ``mode``."""
        network = copy.deepcopy(self.network)
        return replace(self, network=network, mode=mode, run=BACKENDS[mode.backend].prepare(network, self.images, mode))


def build_candidate(
    config: str,
    checkpoint: str | None = None,
    cfg_options: dict | None = None,
    shape: Sequence[int] | None = None,
    whole_patches: bool = False,
    batch_size: int = 1,
    backbone_only: bool = False,
    memory_patch: int | None = None,
    device: str = 'cpu',
    train: bool = False,
) -> Candidate:
    """Build the network of a config and run it once, to count its work and to see that it takes its images.

    The arguments are the options of ``tools/fps_benchmark.py``. ``shape`` is height and width, or one side, and
    defaults to the config's test size. ``memory_patch`` overrides the memory patch size of a config that has one.

    Raises:
        UserError: If the config, the checkpoint or the size of the images does not fit.
    """
    cfg = load_config(config, cfg_options)
    backbone = cfg.model.get('backbone', {})
    if memory_patch and 'patch_size' in backbone.get('memory_embed', {}):
        backbone.memory_embed.patch_size = memory_patch
    height, width = (shape[0], shape[-1]) if shape else input_size(cfg)
    if whole_patches:
        rows, columns = patch_sizes(cfg)
        if height < rows or width < columns:
            raise UserError(f'config {config} has patches of {rows}×{columns}: {height}×{width} holds none')
        height, width = height // rows * rows, width // columns * columns
    model = build_model(cfg)
    if checkpoint:
        load_weights(model, checkpoint)
    network = inference_network(model, backbone_only).to(device)
    images = torch.randn(batch_size, backbone.get('in_channels', 3), height, width, device=device)
    try:
        # a training step may change buffers, so it runs on a copy
        macs, gemms = (
            count_work(training_step(copy.deepcopy(network), images)) if train else count_forward(network, images)
        )
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise UserError(f'config {config} does not run on images of {height}×{width}: {reason}') from error
    return Candidate(config, checkpoint, network, images, macs / batch_size, largest(gemms))


def patch_sizes(cfg: Config) -> tuple[int, int]:
    """Height and width of the smallest image that holds whole patches of every embedding of the backbone."""
    backbone = cfg.model.get('backbone', {})
    holders = (backbone, backbone.get('memory_embed', {}), backbone.get('process_embed', {}))
    sizes = [holder['patch_size'] for holder in holders if 'patch_size' in holder]
    pairs = [(1, 1), *((size, size) if isinstance(size, int) else size for size in sizes)]
    height, width = (math.lcm(*sides) for sides in zip(*pairs, strict=True))
    return height, width
