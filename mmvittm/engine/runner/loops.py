"""Training loops that resume exactly, and validation and test loops that name unreadable files.

mmengine's training loops load all earlier batches again, or at least draw their indices. Here, the random numbers of a
sample are seeded with its position (:mod:`mmvittm.datasets.seeded`), and those of dropout, drop path and mixup with the
iteration, so there is no random state to save or replay. A validation that was due at the checkpoint runs first.
"""

from collections.abc import Iterator

import torch
from mmengine.dist import broadcast_object_list, get_rank
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, TestLoop, ValLoop
from torch import nn
from torch.utils.data import DataLoader

from ...datasets.seeded import seed_all
from ...errors import UserError
from ...registry import LOOPS


def _num_classes(runner: Runner) -> int | None:
    """Return the number of classes of the model's head, or None if its config does not say."""
    model = runner.cfg.get('model') or {}
    head = model.get('decode_head') or model.get('head') or {}
    return (head[-1] if isinstance(head, list) else head).get('num_classes')


class _ResumableLoop:
    """Mixin for mmengine's training loops; must come before them in the bases."""

    endless: bool

    def __init__(self, runner: Runner, dataloader: dict, *args, max_corrupt_files: int = 0, **kwargs) -> None:
        if not isinstance(dataloader, dict) or 'batch_sampler' in dataloader:
            raise UserError('Resumable loops need a train_dataloader with batch_size and without batch_sampler')
        dataset = dict(
            type='mmvittm.SeededDataset',
            dataset=dataloader['dataset'],
            max_corrupt_files=max_corrupt_files,
            num_classes=_num_classes(runner),
        )
        sampler = dict(type='mmvittm.SeededSampler', sampler=dataloader['sampler'], endless=self.endless)
        super().__init__(runner, {**dataloader, 'dataset': dataset, 'sampler': sampler}, *args, **kwargs)
        # mmengine 0.10.7 starts workers here, before the sampler knows where to begin; this ends them
        self.dataloader_iterator = self.dataloader._iterator = None

    def _begin(self) -> None:
        """Call the hooks and give every process the seed of the run; a resumed run has it from its checkpoint.

        Raises:
            UserError: If the processes do not start from the same iteration.
        """
        self.runner.call_hook('before_train')
        start = [self.runner.seed, self._iter]
        broadcast_object_list(start)
        self.dataloader.sampler.seed, first = start
        if self._iter != first:
            raise UserError(
                f'rank {get_rank()} starts after iteration {self._iter}, but rank 0 after {first}: put the work dir on '
                'a file system that all processes share'
            )

    def _batches(self, start: int) -> Iterator[tuple[int, dict]]:
        """Enumerate the batches of the data loader from batch ``start`` on."""
        self.dataloader.sampler.start = start * self.dataloader.batch_size
        return enumerate(self.dataloader, start)

    def run_iter(self, *args) -> None:
        """Train on one batch, with random numbers seeded by the run's seed, the iteration and the rank."""
        seed_all(self.dataloader.sampler.seed, self._iter, get_rank())
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(torch.initial_seed())
        super().run_iter(*args)

    def _validate(self, done: int, total: int) -> None:
        """Validate if that is due after ``done`` of ``total`` iterations or epochs and has not happened yet."""
        hub = self.runner.message_hub
        self._decide_current_val_interval()
        due = done > 0 and done >= self.val_begin and (done % self.val_interval == 0 or done == total)
        if self.runner.val_loop is not None and due and hub.get_info('last_validation') != done:
            # set before validating, since a new best model is saved during validation
            hub.update_info('last_validation', done)
            self.runner.val_loop.run()


@LOOPS.register_module()
class ResumableIterLoop(_ResumableLoop, IterBasedTrainLoop):
    """mmengine's IterBasedTrainLoop, which resumes exactly from any iteration.

    Args:
        runner (Runner): The runner.
        dataloader (dict): Config of the data loader.
        max_iters (int): Number of iterations.
        max_corrupt_files (int): See :class:`~mmvittm.datasets.SeededDataset`. Defaults to 0.
        **kwargs: ``val_begin``, ``val_interval`` and ``dynamic_intervals``, as in mmengine.
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
    """mmengine's EpochBasedTrainLoop, which resumes exactly from any iteration, also within an epoch.

    Args:
        runner (Runner): The runner.
        dataloader (dict): Config of the data loader.
        max_epochs (int): Number of epochs.
        max_corrupt_files (int): See :class:`~mmvittm.datasets.SeededDataset`. Defaults to 0.
        **kwargs: ``val_begin``, ``val_interval`` and ``dynamic_intervals``, as in mmengine.
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
        """Return the number of batches of the current epoch that were trained on before the checkpoint."""
        hub, length = self.runner.message_hub, len(self.dataloader)
        before = hub.get_info('epoch_length', length)
        hub.update_info('epoch_length', length)
        epoch, first = hub.get_info('epoch_start', (self._epoch, self._epoch * before))
        done = self._iter - first if epoch == self._epoch else 0
        if done and before != length:
            self.runner.logger.warning(
                f'an epoch has {length} iterations, but had {before} when the checkpoint was saved: restarting the '
                'current epoch, so the resumed run is not exact'
            )
            done = 0
        return done

    def run_epoch(self) -> None:
        """Train on the rest of the epoch."""
        if not self._first_batch:
            self.runner.message_hub.update_info('epoch_start', (self._epoch, self._iter))
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, data_batch in self._batches(self._first_batch):
            self.run_iter(index, data_batch)
        self._first_batch = 0
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


class _CheckedLoop:
    """Mixin for mmengine's validation and test loops; must come before them in the bases."""

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *args, **kwargs) -> None:
        if isinstance(dataloader, dict):
            dataset = dict(
                type='mmvittm.CheckedDataset', dataset=dataloader['dataset'], num_classes=_num_classes(runner)
            )
            dataloader = {**dataloader, 'dataset': dataset}
        super().__init__(runner, dataloader, *args, **kwargs)


@LOOPS.register_module(name=['CheckedValLoop', 'ReadableValLoop'])  # the second is its name in 0.1.0
class CheckedValLoop(_CheckedLoop, ValLoop):
    """mmengine's ValLoop on an :class:`~mmvittm.datasets.CheckedDataset`."""


@LOOPS.register_module(name=['CheckedTestLoop', 'ReadableTestLoop'])
class CheckedTestLoop(_CheckedLoop, TestLoop):
    """mmengine's TestLoop on an :class:`~mmvittm.datasets.CheckedDataset`."""
