import copy
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from ...errors import UserError
from ...fileio import atomic_path, remove_leftovers
from ...registry import HOOKS

INTERRUPTED = 'interrupted.pth'  # saved between the regular checkpoints when a signal stops training


@register_backend('atomic', force=True)
class AtomicBackend(LocalBackend):
    """Local files that are there whole, and on the disk, or not at all: ``backend_args=dict(backend='atomic')``."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write ``obj`` beside ``filepath`` and rename it."""
        with atomic_path(filepath) as temporary:
            temporary.write_bytes(obj)


def batches_waiting(runner: Runner) -> int:
    """Batches whose gradients are accumulated for a step of the optimizer that is still to come."""
    wrapper = runner.optim_wrapper
    return getattr(wrapper, '_inner_count', 0) % getattr(wrapper, '_accumulative_counts', 1)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, after which there is a whole checkpoint at every moment.

    Checkpoints and ``last_checkpoint`` are written beside their place, flushed to the disk and renamed, in this order;
    only then older ones are deleted.

    Args:
        *args: As for mmengine's.
        backend_args (dict, optional): Where files are written. Defaults to None, which means :class:`AtomicBackend`.
        **kwargs: As for mmengine's.

    Attributes:
        saved_iter (int, optional): Iterations that the last checkpoint of this process has behind it.
    """

    def __init__(self, *args, backend_args: dict | None = None, **kwargs) -> None:
        super().__init__(*args, backend_args=backend_args or dict(backend='atomic'), **kwargs)
        self.saved_iter = None

    def before_train(self, runner: Runner) -> None:
        """Remove what a killed run left half-written, or left over; name the checkpoint that was resumed."""
        resumed = runner.message_hub.get_info('last_ckpt')
        if is_main_process() and resumed and Path(resumed).exists():
            # a run killed just before it would have named it; mmengine now deletes older ones
            self._name_last(runner, resumed)
        super().before_train(runner)
        if is_main_process():
            remove_leftovers(self.out_dir)
            remove_leftovers(runner.work_dir)

    def save_interrupted(self, runner: Runner) -> None:
        """Save after this training iteration, wherever it stands in its epoch; the next regular save removes it."""
        with self._saving():
            self._save(runner, INTERRUPTED, dict(epoch=runner.epoch, iter=runner.iter + 1))

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Save, then delete; mmengine does it the other way round."""
        steps = list(self.keep_ckpt_ids) if self.max_keep_ckpts > 0 else []
        if self.max_keep_ckpts > 0 and step not in steps:
            steps.append(step)
            # with the one that is about to go: if this process dies first, mmengine deletes it on resume
            runner.message_hub.update_info('keep_ckpt_ids', steps)
        with self._saving():
            self._save(runner, self.filename_tmpl.format(step), meta)
        if self.max_keep_ckpts > 0:
            for old in steps[: -self.max_keep_ckpts]:
                self._remove(self.filename_tmpl.format(old))
            self.keep_ckpt_ids = deque(steps, self.max_keep_ckpts)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self._remove(INTERRUPTED)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        """Save the best checkpoint, then delete the one that was the best before."""
        backend, outdated = self.file_backend, []
        self.file_backend = copy.copy(backend)
        self.file_backend.remove = outdated.append
        try:
            with self._saving():
                super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend
        if self.save_best:
            best = {self.best_ckpt_path} if len(self.key_indicators) == 1 else {*self.best_ckpt_path_dict.values()}
            for path in {*outdated} - best:
                backend.remove(path)

    def _save(self, runner: Runner, filename: str, meta: dict) -> None:
        if waiting := batches_waiting(runner):
            runner.logger.warning(
                f'{filename} is saved while the gradients of {waiting} batches wait for the next optimizer step, and '
                'does not hold them: make the checkpoint interval a multiple of accumulative_counts'
            )
        self.last_ckpt = self.file_backend.join_path(self.out_dir, filename)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            filename,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            self._name_last(runner, self.last_ckpt)
        self.saved_iter = meta['iter']

    @staticmethod
    def _name_last(runner: Runner, path: str) -> None:
        with atomic_path(Path(runner.work_dir) / 'last_checkpoint') as temporary:
            temporary.write_text(path)

    def _remove(self, filename: str) -> None:
        path = self.file_backend.join_path(self.out_dir, filename)
        if is_main_process() and self.file_backend.exists(path):
            (self.file_backend.rmtree if self.file_backend.isdir(path) else self.file_backend.remove)(path)

    @contextmanager
    def _saving(self) -> Iterator[None]:
        """One sentence about a checkpoint that cannot be written, and about the one that is left."""
        before = self.last_ckpt
        try:
            yield
        except OSError as error:
            rest = f'training can go on from {before} with --resume' if before else 'none was saved before in this run'
            raise UserError(
                f'the checkpoint cannot be written to {self.out_dir} ({error.strerror or error}); {rest}, '
                'once there is room'
            ) from error
