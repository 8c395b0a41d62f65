import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...errors import UserError
from ...registry import HOOKS
from .safe_checkpoint_hook import SafeCheckpointHook, accumulated_batches, accumulative_counts


def _ignore_signals_in_worker(init: Callable[[int], None] | None, worker_id: int) -> None:
    """Keep a data loader worker alive when its process group gets the signal: only the main process may end it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, 'sigwaitinfo'):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_sigterm_from_parent, daemon=True).start()
    if init:
        init(worker_id)


def _exit_on_sigterm_from_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(os.EX_OK)  # torch's own handler exits with 0 too; the loader reports any other status as a crash


@HOOKS.register_module()
class StopOnSignalHook(Hook):
    """Save a checkpoint and exit on SIGTERM (sent by job schedulers) or SIGINT (Ctrl-C).

    The exit status is 128 plus the signal number: 143 for SIGTERM, 130 for SIGINT. A second signal ends the process at
    once. With gradient accumulation, the checkpoint is saved after the next optimizer step.

    Args:
        interval (int): Iterations between two checks in a distributed run, whose processes have to agree on the
            iteration, or the next optimizer step if that takes more. A single process checks after every iteration.
            Defaults to 10.

    Raises:
        UserError: If the config has no :class:`SafeCheckpointHook`.
    """

    priority = 'LOWEST'

    def __init__(self, interval: int = 10) -> None:
        self.interval = interval
        self.received = 0

    def before_train(self, runner: Runner) -> None:
        """Install the signal handlers."""
        self.saver = next((hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)), None)
        if self.saver is None:
            raise UserError(
                'StopOnSignalHook needs default_hooks.checkpoint.type=mmvittm.SafeCheckpointHook; '
                'to train without either, set default_hooks.stop_on_signal=None'
            )
        for loop in (runner.train_loop, runner.val_loop):
            if loop is not None:
                loop.dataloader.worker_init_fn = partial(_ignore_signals_in_worker, loop.dataloader.worker_init_fn)
        self.previous = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Save and exit if any process has received a signal."""
        done = runner.iter + 1
        batches = accumulative_counts(runner)
        agrees = get_world_size() == 1 or done // batches % max(1, self.interval // batches) == 0
        if accumulated_batches(runner) or not agrees:
            return
        received = torch.tensor(self.received)
        all_reduce(received, 'max')
        if received:
            path = self.saver.last_ckpt if self.saver.saved_iter == done else self.saver.save_interrupted(runner)
            self._exit(runner, int(received), done, path)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Exit if a signal came and the model is already saved; the resumed run repeats the validation."""
        if not self.received or get_world_size() > 1 or accumulated_batches(runner):
            return
        if self.saver.saved_iter == runner.iter:
            self._exit(runner, self.received, runner.iter, self.saver.last_ckpt)

    @staticmethod
    def _exit(runner: Runner, number: int, done: int, path: str) -> None:
        runner.logger.warning(
            f'{signal.Signals(number).name}: stopped after iteration {done}, saved in {path}; continue with --resume'
        )
        raise SystemExit(128 + number)

    def after_train(self, runner: Runner) -> None:
        """Restore the previous signal handlers."""
        self._restore_handlers()
