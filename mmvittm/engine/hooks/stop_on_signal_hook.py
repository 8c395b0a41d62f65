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
from .safe_checkpoint_hook import SafeCheckpointHook, batches_waiting


def _leave_signals_to_the_main_process(init: Callable[[int], None] | None, worker_id: int) -> None:
    """Start a data loader's worker, which gets the signals of its process group too and would take the run with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, 'sigwaitinfo'):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_main_process_says, daemon=True).start()
    if init:
        init(worker_id)


def _end_when_the_main_process_says() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(128 + signal.SIGTERM)


@HOOKS.register_module()
class StopOnSignalHook(Hook):
    """Saves a checkpoint and exits on SIGTERM (a scheduler takes the machine back) or SIGINT (Ctrl-C).

    The exit status is 128 + the signal's number: 143 for SIGTERM, 130 for SIGINT. A second signal ends the process at
    once. With gradient accumulation the checkpoint waits for the next optimizer step.

    Args:
        interval (int): Every so many iterations the processes of a distributed run ask each other whether one got a
            signal; a single process looks after each iteration. Defaults to 10.

    Raises:
        UserError: If the config has no :class:`SafeCheckpointHook`.
    """

    priority = 'LOWEST'

    def __init__(self, interval: int = 10) -> None:
        self.interval = interval
        self.received = 0

    def before_train(self, runner: Runner) -> None:
        """Listen."""
        self.saver = next((hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)), None)
        if self.saver is None:
            raise UserError('StopOnSignalHook needs default_hooks.checkpoint of type mmvittm.SafeCheckpointHook')
        for loop in (runner.train_loop, runner.val_loop):
            if loop is not None:
                init = loop.dataloader.worker_init_fn
                loop.dataloader.worker_init_fn = partial(_leave_signals_to_the_main_process, init)
        self.previous = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Save and exit if there was a signal."""
        done = runner.iter + 1
        if batches_waiting(runner) or (get_world_size() > 1 and done % self.interval):
            return
        received = torch.tensor(self.received)
        all_reduce(received, 'max')
        if received:
            if self.saver.saved_iter != done:
                self.saver.save_interrupted(runner)
            self._exit(runner, int(received), done)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Exit if there was a signal and the model is saved; validation is made up for after a resume."""
        if self.received and get_world_size() == 1 and self.saver.saved_iter == runner.iter:
            self._exit(runner, self.received, runner.iter)

    def _exit(self, runner: Runner, number: int, done: int) -> None:
        runner.logger.warning(
            f'{signal.Signals(number).name}: stopped after iteration {done}, saved in {self.saver.last_ckpt}; '
            'go on with --resume'
        )
        raise SystemExit(128 + number)

    def after_train(self, runner: Runner) -> None:
        """Listen no longer."""
        self._restore()
