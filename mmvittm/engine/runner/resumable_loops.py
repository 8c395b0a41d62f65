"""Training loops that go on after a resume as if nothing had happened.

mmengine's loops load all earlier batches again, or draw all earlier indices. Here the random numbers of a sample come
from its place (:mod:`mmvittm.datasets.seeded`) and those of dropout, drop path and mixup from the iteration: there is
nothing to replay and no generator's state to save. A validation that the checkpoint came just before is made up for.
"""

from collections.abc import Iterator

import torch
from mmengine.dist import broadcast_object_list, get_rank
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn

from ...datasets.seeded import seed_all
from ...errors import UserError
from ...registry import LOOPS


class _ResumableLoop:
    """What both loops share; comes before mmengine's loop in the bases."""

    endless: bool

    def __init__(self, runner: Runner, dataloader: dict, *args, max_corrupt_files: int = 0, **kwargs) -> None:
        if not isinstance(dataloader, dict) or 'batch_sampler' in dataloader:
            raise UserError('train_dataloader must be a config with a batch_size and no batch_sampler, to be resumable')
        dataset = dict(type='mmvittm.SeededDataset', dataset=dataloader['dataset'], max_corrupt_files=max_corrupt_files)
        sampler = dict(type='mmvittm.SeededSampler', sampler=dataloader['sampler'], endless=self.endless)
        super().__init__(runner, {**dataloader, 'dataset': dataset, 'sampler': sampler}, *args, **kwargs)

    def _begin(self) -> None:
        """Call the hooks; take the run's seed, which a resumed run has from its checkpoint, on every process."""
        self.runner.call_hook('before_train')
        seed = [self.runner.seed]
        broadcast_object_list(seed)
        self.dataloader.sampler.seed = seed[0]

    def _batches(self, start: int) -> Iterator[tuple[int, dict]]:
        """Numbered batches, from number ``start`` on."""
        self.dataloader.sampler.start = start * self.dataloader.batch_size
        return enumerate(self.dataloader, start)

    def run_iter(self, *args) -> None:
        """Train on one batch, with random numbers that depend on the seed, the iteration and the rank only."""
        seed_all(self.dataloader.sampler.seed, self._iter, get_rank())
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(torch.initial_seed())
        super().run_iter(*args)

    def _validate(self, done: int, total: int) -> None:
        """Validate if it is due after ``done`` of ``total`` iterations or epochs and has not been done."""
        hub = self.runner.message_hub
        self._decide_current_val_interval()
        due = done >= self.val_begin and (done % self.val_interval == 0 or done == total)
        if self.runner.val_loop is not None and due and hub.get_info('last_validation') != done:
            # before validating, which may save a checkpoint itself, of a new best model
            hub.update_info('last_validation', done)
            self.runner.val_loop.run()


@LOOPS.register_module()
class ResumableIterLoop(_ResumableLoop, IterBasedTrainLoop):
    """mmengine's IterBasedTrainLoop, exact after a resume at any iteration.

    Args:
        runner (Runner): The runner.
        dataloader (dict): Config of the data loader.
        max_iters (int): Iterations to train for.
        max_corrupt_files (int): See :class:`~mmvittm.datasets.SeededDataset`. Defaults to 0.
        **kwargs: ``val_begin``, ``val_interval`` and ``dynamic_intervals`` as for mmengine's.
    """

    endless = True

    def run(self) -> nn.Module:
        """Train from the iteration of the checkpoint, or from 0."""
        self._begin()
        self.runner.call_hook('before_train_epoch')
        self._validate(self._iter, self._max_iters)
        batches = self._batches(self._iter)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(batches)[1])
            self._validate(self._iter, self._max_iters)
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model


@LOOPS.register_module()
class ResumableEpochLoop(_ResumableLoop, EpochBasedTrainLoop):
    """mmengine's EpochBasedTrainLoop, exact after a resume at any iteration, in the middle of an epoch too.

    Args:
        runner (Runner): The runner.
        dataloader (dict): Config of the data loader.
        max_epochs (int): Epochs to train for.
        max_corrupt_files (int): See :class:`~mmvittm.datasets.SeededDataset`. Defaults to 0.
        **kwargs: ``val_begin``, ``val_interval`` and ``dynamic_intervals`` as for mmengine's.
    """

    endless = False

    def run(self) -> nn.Module:
        """Train from the iteration of the checkpoint, or from 0."""
        self._begin()
        self._first_batch = self._batches_done()
        self._validate(self._epoch, self._max_epochs)
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate(self._epoch, self._max_epochs)
        self.runner.call_hook('after_train')
        return self.runner.model

    def _batches_done(self) -> int:
        """How many batches of the current epoch the checkpoint has been trained on."""
        hub, length = self.runner.message_hub, len(self.dataloader)
        before = hub.get_info('epoch_length', length)
        hub.update_info('epoch_length', length)
        done = self._iter - self._epoch * before
        if before != length:
            self.runner.logger.warning(
                f'an epoch had {before} iterations when the checkpoint was written and has {length} now: '
                'training goes on at the beginning of the epoch and is no longer exact'
            )
            done = 0
        return done

    def run_epoch(self) -> None:
        """Train on the rest of the epoch."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, data_batch in self._batches(self._first_batch):
            self.run_iter(index, data_batch)
        self._first_batch = 0
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
