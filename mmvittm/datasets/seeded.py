"""Samples whose random numbers are seeded with their position in the training.

Sample *p* of an epoch is always the same image with the same augmentation. So a run can resume at any position without
replaying the samples before it, and the number of workers or processes does not matter.
"""

import logging
import random
from collections.abc import Iterator
from itertools import chain, count, islice
from typing import NamedTuple

import numpy as np
import torch
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.logging import print_log
from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from torch.utils.data import Dataset, Sampler

from ..errors import UserError
from ..registry import DATA_SAMPLERS, DATASETS
from .checked import CheckedDataset


class Draw(NamedTuple):
    """A request of :class:`SeededSampler` to :class:`SeededDataset`."""

    index: int
    key: tuple[int, ...]  # seed of its random numbers: run seed, epoch, position in the epoch over all processes


def seed_all(*key: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch (CPU) with a hash of ``key``."""
    words = np.random.SeedSequence(key).generate_state(4)
    number = int.from_bytes(words.tobytes()[:8], 'little')
    np.random.seed(words)
    random.seed(number)
    torch.default_generator.manual_seed(number)


@DATA_SAMPLERS.register_module()
class SeededSampler(Sampler):
    """Wrap a sampler: add its position to each index, and start at any position.

    Args:
        dataset (Dataset): The data set.
        sampler (dict): Config of a sampler whose order depends only on its seed and epoch, as mmengine's do.
        endless (bool): Continue with the next epoch for ever, for loops that count iterations.
        seed (int, optional): Seed of the order and of the samples. Defaults to None, a random seed.

    Attributes:
        start (int): Number of samples of this process to skip. Set it before iterating.
    """

    def __init__(self, dataset: Dataset, sampler: dict, endless: bool = False, seed: int | None = None) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self.endless = endless
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0
        self.start = 0
        self.length = len(self._build())

    def _build(self) -> Sampler:
        # built for every pass, since mmengine's InfiniteSampler continues where the last pass stopped
        return MMENGINE_DATA_SAMPLERS.build(dict(self.sampler), default_args=dict(dataset=self.dataset, seed=self.seed))

    def _draws(self, epoch: int) -> Iterator[Draw]:
        sampler = self._build()
        if hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(epoch)
        rank, world_size = get_dist_info()
        for number, index in enumerate(sampler):
            yield Draw(index, (self.seed, epoch, number * world_size + rank))

    def __iter__(self) -> Iterator[Draw]:
        """Yield the draws of this epoch, or of all epochs if ``endless``, from ``start`` on."""
        epochs = count() if self.endless else (self.epoch,)
        return islice(chain.from_iterable(map(self._draws, epochs)), self.start, None)

    def __len__(self) -> int:
        """Return the number of samples of this process in one epoch."""
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch for the next pass."""
        self.epoch = epoch


@DATASETS.register_module()
class SeededDataset(CheckedDataset):
    """Data set wrapper that seeds each sample with its position and replaces samples with bad files.

    Args:
        dataset (dict): Config of the data set.
        max_corrupt_files (int): Number of samples with a bad image or label map that are replaced by others, with a
            warning, before it is an error. Counted per process. Defaults to 0.
        num_classes (int, optional): Number of classes of the model.
    """

    def __init__(self, dataset: dict, max_corrupt_files: int = 0, num_classes: int | None = None) -> None:
        super().__init__(dataset, num_classes)
        self.max_corrupt_files = max_corrupt_files
        # shared with the workers
        self.corrupt = torch.zeros(len(self.dataset), dtype=torch.bool).share_memory_()

    def __getitem__(self, draw: Draw) -> dict:
        """Load the sample of ``draw``, or another random one if its files are bad.

        Raises:
            UserError: If more than ``max_corrupt_files`` samples have bad files.
        """
        index = draw.index
        for attempt in count():
            seed_all(*draw.key, attempt)
            try:
                return super().__getitem__(index)
            except UserError as error:
                self._note_corrupt(index, error)
            index = int(np.random.default_rng((*draw.key, attempt)).integers(len(self)))

    def _note_corrupt(self, index: int, error: UserError) -> None:
        is_new = not self.corrupt[index]
        self.corrupt[index] = True
        found = int(self.corrupt.sum())
        if found > self.max_corrupt_files or found == len(self):
            allow = f', or allow more such files with train_cfg.max_corrupt_files, now {self.max_corrupt_files}'
            raise UserError(f'{error}{allow if found < len(self) else ""}') from error
        if is_new:
            message = f'{error}; replaced by another sample ({found} of at most {self.max_corrupt_files})'
            print_log(message, logger='current', level=logging.WARNING)
