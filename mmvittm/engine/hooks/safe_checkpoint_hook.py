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

INTERRUPTED = 'interrupted.pth'  # saved when a signal stops the training


@register_backend('atomic', force=True)
class AtomicBackend(LocalBackend):
    """Write local files atomically and flush them to disk: ``backend_args=dict(backend='atomic')``."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write ``obj`` to a temporary file and rename it to ``filepath``."""
        with atomic_path(filepath) as temporary:
            temporary.write_bytes(obj)


def accumulated_batches(runner: Runner) -> int:
    """Return the number of batches whose gradients wait for the next optimizer step."""
    wrapper = runner.optim_wrapper
    return getattr(wrapper, '_inner_count', 0) % getattr(wrapper, '_accumulative_counts', 1)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook with atomic writes: a killed run always leaves an intact checkpoint.

    The checkpoint is written to a temporary file, flushed to disk and renamed. Then ``last_checkpoint`` is updated in
    the same way. Only then are older checkpoints deleted.

    Args:
        *args: See mmengine's CheckpointHook.
        backend_args (dict, optional): File backend. Defaults to None, which selects :class:`AtomicBackend`.
        **kwargs: See mmengine's CheckpointHook.

    Attributes:
        saved_iter (int, optional): Number of iterations behind the last checkpoint of this process.
    """

    def __init__(self, *args, backend_args: dict | None = None, **kwargs) -> None:
        super().__init__(*args, backend_args=backend_args or dict(backend='atomic'), **kwargs)
        self.saved_iter = None

    def before_train(self, runner: Runner) -> None:
        """Repair ``last_checkpoint`` and remove the temporary files of a killed run."""
        resumed = runner.message_hub.get_info('last_ckpt')
        if is_main_process() and resumed and Path(resumed).exists():
            # a run killed before it updated last_checkpoint, whose older target mmengine deletes now
            self._name_last(runner, resumed)
        super().before_train(runner)
        if is_main_process():
            remove_leftovers(self.out_dir)
            remove_leftovers(runner.work_dir)

    def save_interrupted(self, runner: Runner) -> None:
        """Save after the current iteration, also within an epoch. The next regular checkpoint removes this one."""
        with self._saving():
            self._save(runner, INTERRUPTED, dict(epoch=runner.epoch, iter=runner.iter + 1))

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Save the new checkpoint before deleting old ones; mmengine deletes first."""
        steps = list(self.keep_ckpt_ids) if self.max_keep_ckpts > 0 else []
        if self.max_keep_ckpts > 0 and step not in steps:
            steps.append(step)
            # includes the one to be deleted: if this process dies first, mmengine deletes it on resume
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
        """Save the new best checkpoint before deleting the previous one."""
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
        if waiting := accumulated_batches(runner):
            runner.logger.warning(
                f'{filename} does not include the accumulated gradients of {waiting} batches: make the checkpoint '
                'interval a multiple of accumulative_counts'
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
        """Turn a failed write into one sentence that names the last checkpoint left."""
        before = self.last_ckpt
        try:
            yield
        except OSError as error:
            then = f'continue from {before} with --resume' if before else 'start again'
            raise UserError(
                f'the checkpoint cannot be written to {self.out_dir} ({error.strerror or error}): '
                f'free some space, then {then}'
            ) from error
