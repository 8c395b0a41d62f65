"""Samples that depend on their place in the training and on nothing that was drawn before them.

A resumed run goes on at any place without replaying what came before, and the number of workers or processes changes
nothing: sample *p* of an epoch is the same image, cropped and flipped alike.
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
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from torch.utils.data import Dataset, Sampler

from ..errors import UserError
from ..registry import DATA_SAMPLERS, DATASETS
from .readable import unreadable_file


class Draw(NamedTuple):
    """What :class:`SeededSampler` asks of :class:`SeededDataset`."""

    index: int
    key: tuple[int, ...]  # of its random numbers: the run's seed, the epoch, the position in it over all processes


def seed_all(*key: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch (CPU) with a mixture of the numbers in ``key``."""
    words = np.random.SeedSequence(key).generate_state(4)
    number = int.from_bytes(words.tobytes()[:8], 'little')
    np.random.seed(words)
    random.seed(number)
    torch.default_generator.manual_seed(number)


@DATA_SAMPLERS.register_module()
class SeededSampler(Sampler):
    """Says of every index of another sampler at which place it stands, and can begin at any place.

    Args:
        dataset (Dataset): The data set.
        sampler (dict): Config of a sampler whose order depends on its seed and epoch only, as mmengine's do.
        endless (bool): Whether epoch follows epoch without an end, for loops that count iterations.
        seed (int, optional): Of the order and of all that is random in the samples. Defaults to None, a random one.

    Attributes:
        start (int): How many samples of this process come before the first one; set it before iterating.
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
        # built anew for every pass: mmengine's InfiniteSampler goes on where its last reader stopped
        return MMENGINE_DATA_SAMPLERS.build(dict(self.sampler), default_args=dict(dataset=self.dataset, seed=self.seed))

    def _draws(self, epoch: int) -> Iterator[Draw]:
        sampler = self._build()
        if hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(epoch)
        rank, world_size = get_dist_info()
        for number, index in enumerate(sampler):
            yield Draw(index, (self.seed, epoch, number * world_size + rank))

    def __iter__(self) -> Iterator[Draw]:
        """Yield the draws of this epoch, or of all epochs, from ``start`` on."""
        epochs = count() if self.endless else (self.epoch,)
        return islice(chain.from_iterable(map(self._draws, epochs)), self.start, None)

    def __len__(self) -> int:
        """Samples of one epoch and process."""
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through."""
        self.epoch = epoch


@DATASETS.register_module()
class SeededDataset(Dataset):
    """Seeds the random numbers of each sample with its place, and passes over a few files that are broken.

    Args:
        dataset (dict): Config of the data set.
        max_corrupt_files (int): So many samples whose image or label cannot be read are replaced by others, each with
            a warning, before it is an error. Counted per process. Defaults to 0.
    """

    def __init__(self, dataset: dict, max_corrupt_files: int = 0) -> None:
        self.dataset = MMENGINE_DATASETS.build(dataset)
        self.metainfo = getattr(self.dataset, 'metainfo', {})
        self.max_corrupt_files = max_corrupt_files
        # shared with the workers, who each find some of them
        self.corrupt = torch.zeros(len(self.dataset), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> dict:
        """Load the sample of ``draw``, or of one drawn in its stead.

        Raises:
            UserError: If it cannot be read, and neither could too many others.
        """
        index = draw.index
        for attempt in count():
            seed_all(*draw.key, attempt)
            try:
                return self.dataset[index]
            except Exception as error:
                self._pass_over(index, error)
            index = int(np.random.default_rng((*draw.key, attempt)).integers(len(self)))

    def _pass_over(self, index: int, error: Exception) -> None:
        problem = str(error) if isinstance(error, UserError) else unreadable_file(self.dataset.get_data_info(index))
        if problem is None:
            raise  # the files are fine, something else is not
        is_new = not self.corrupt[index]
        self.corrupt[index] = True
        found = int(self.corrupt.sum())
        if found > self.max_corrupt_files or found == len(self):
            raise UserError(
                f'{problem}; repair or remove it, or have such samples replaced by others: '
                f'train_cfg.max_corrupt_files, now {self.max_corrupt_files}'
            ) from error
        if is_new:
            message = f'{problem}; another sample takes its place ({found} of at most {self.max_corrupt_files})'
            print_log(message, logger='current', level=logging.WARNING)
