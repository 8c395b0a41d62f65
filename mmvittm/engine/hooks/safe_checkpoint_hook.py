from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from ...errors import UserError
from ...fileio import atomic_path, remove_leftovers
from ...registry import HOOKS
from ..checkpoints import INTERRUPTED, LAST, RESUMED_FROM


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
    done = getattr(wrapper, '_inner_count', 0)
    is_last = done == getattr(wrapper, '_max_counts', -1)  # where mmengine steps in any case
    return 0 if is_last else done % accumulative_counts(runner)


def accumulative_counts(runner: Runner) -> int:
    """Return the number of batches of an optimizer step."""
    return getattr(runner.optim_wrapper, '_accumulative_counts', 1)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook with atomic writes: a killed run always leaves an intact checkpoint.

    The checkpoint is written to a temporary file, flushed to disk and renamed. Then ``last_checkpoint`` is updated in
    the same way. Only then are older checkpoints deleted, and only in the folder that this run saves to: a checkpoint
    of another run, or of a copy of this one, holds paths of other folders.

    Args:
        *args: See mmengine's CheckpointHook.
        backend_args (dict, optional): File backend. Defaults to None, which selects :class:`AtomicBackend`.
        **kwargs: See mmengine's CheckpointHook.

    Attributes:
        saved_iter (int, optional): Number of iterations behind the last checkpoint of this process.
    """

    def __init__(self, *args: Any, backend_args: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, backend_args=backend_args or dict(backend='atomic'), **kwargs)
        self.saved_iter = None
        self._previous_best = []

    @property
    def _best(self) -> list[str | None]:
        """Paths of the best checkpoint by each metric of ``save_best``."""
        if not self.save_best:
            return []
        return [self.best_ckpt_path] if len(self.key_indicators) == 1 else list(self.best_ckpt_path_dict.values())

    @_best.setter
    def _best(self, paths: list[str | None]) -> None:
        if len(paths) == 1:
            (self.best_ckpt_path,) = paths
        elif paths:
            self.best_ckpt_path_dict = dict(zip(self.best_ckpt_path_dict, paths, strict=True))

    def before_train(self, runner: Runner) -> None:
        """Find the earlier checkpoints of this run in its own folder, and let ``--resume`` start where it starts."""
        super().before_train(runner)
        start = runner._load_from if runner._resume else None
        if start and Path(start).parent.resolve() != Path(self.out_dir).resolve():
            self._begin_elsewhere(runner, start)
        else:
            self.last_ckpt = self._own(runner.message_hub.get_info('last_ckpt'))
            self._best = [self._own(path) for path in self._best]
            if is_main_process():
                if start:
                    _name_last(runner, str(Path(self.out_dir, Path(start).name)))
                Path(runner.work_dir, RESUMED_FROM).unlink(missing_ok=True)
        if is_main_process():
            remove_leftovers(self.out_dir)
            remove_leftovers(runner.work_dir)

    def _begin_elsewhere(self, runner: Runner, start: str) -> None:
        """Forget the checkpoints of the run that ``start`` is from, which are not this run's to delete."""
        self.last_ckpt, self._best = None, [None for _ in self._best]
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids.clear()
        if is_main_process():
            path = Path(start).absolute() if Path(start).exists() else start  # start may be a URL
            _write(Path(runner.work_dir, RESUMED_FROM), str(path))

    def _own(self, path: str | None) -> str | None:
        """Return the path of the file of this name in this run's folder, if there is one."""
        own = Path(self.out_dir, Path(path or '').name)
        return str(own) if path and own.exists() else None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Leave out the functions in the states of schedulers such as OneCycleLR, which safe loading refuses.

        A scheduler that is resumed has been built with its functions.
        """
        schedulers = checkpoint.get('param_schedulers', [])
        for states in schedulers.values() if isinstance(schedulers, dict) else [schedulers]:
            states[:] = [{k: v for k, v in state.items() if not callable(v)} for state in states]

    def save_interrupted(self, runner: Runner) -> str:
        """Save after the current iteration, also within an epoch. The next regular checkpoint removes this one.

        Returns:
            str: The path of the checkpoint.
        """
        with self._saving():
            return self._save(runner, INTERRUPTED, dict(epoch=runner.epoch, iter=runner.iter + 1))

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Save the new checkpoint before deleting old ones; mmengine deletes first."""
        self._remove_outdated_best()
        steps = list(self.keep_ckpt_ids) if self.max_keep_ckpts > 0 else []
        if self.max_keep_ckpts > 0 and step not in steps:
            steps.append(step)
            # includes the one to be deleted: if this process dies first, mmengine deletes it on resume
            runner.message_hub.update_info('keep_ckpt_ids', steps)
        filename = self.filename_tmpl.format(step)
        runner.message_hub.update_info('last_ckpt', self.file_backend.join_path(self.out_dir, filename))
        with self._saving():
            self.last_ckpt = self._save(runner, filename, meta)
        if self.max_keep_ckpts > 0:
            for old in steps[: -self.max_keep_ckpts]:
                self._remove(self.filename_tmpl.format(old))
            self.keep_ckpt_ids = deque(steps, self.max_keep_ckpts)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self._remove(INTERRUPTED)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        """Save a new best checkpoint before deleting the previous one; mmengine deletes first.

        Then mmengine saves the last checkpoint again, which names the new best one.
        """
        self._previous_best, self._best = self._best, [None for _ in self._best]  # mmengine deletes what it finds here
        with self._saving():
            super()._save_best_checkpoint(runner, metrics)
        self._remove_outdated_best()
        self._best = [new or old for old, new in zip(self._previous_best, self._best, strict=True)]
        self._previous_best = []

    def _remove_outdated_best(self) -> None:
        for old, new in zip(self._previous_best, self._best, strict=False):
            if old and new and old != new:
                self._remove(Path(old).name)

    def _save(self, runner: Runner, filename: str, meta: dict) -> str:
        if waiting := accumulated_batches(runner):
            runner.logger.warning(
                f'{filename} does not include the accumulated gradients of {waiting} batches: make the checkpoint '
                'interval a multiple of accumulative_counts'
            )
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
        path = self.file_backend.join_path(self.out_dir, filename)
        if is_main_process():
            _name_last(runner, path)
        self.saved_iter = meta['iter']
        return path

    def _remove(self, filename: str) -> None:
        path = self.file_backend.join_path(self.out_dir, filename)
        if is_main_process() and self.file_backend.exists(path):
            is_folder = self.file_backend.isdir(path) and not Path(path).is_symlink()
            (self.file_backend.rmtree if is_folder else self.file_backend.remove)(path)

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


def _name_last(runner: Runner, path: str) -> None:
    """Let ``--resume`` continue from ``path``, in this run's folder."""
    _write(Path(runner.work_dir, LAST), path)
    Path(runner.work_dir, RESUMED_FROM).unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text)
