import atexit
from collections.abc import Iterable
from numbers import Real
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook, LoggerHook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import Dataset

from ...registry import HOOKS


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """Show what runs, its progress and its result on standard output.

    On a terminal, one line shows the iteration, the running loss, the metric of the last validation and the time left.
    Elsewhere (CI, SLURM), such a line is written every so many iterations, as often as mmengine's LoggerHook logs.

    Args:
        metric (str): The metric to show. An evaluator without it shows its first one. Defaults to 'mIoU'.
    """

    priority = 'VERY_LOW'

    def __init__(self, metric: str = 'mIoU') -> None:
        self.metric = metric
        self.result: dict[str, float] = {}
        self.console = Console(soft_wrap=True, highlight=False, markup=False)
        self.progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn('{task.fields[loss]}'),
            TextColumn('{task.fields[metric]}'),
            TimeRemainingColumn(),
            TextColumn('left'),
            console=self.console,
            disable=not self.console.is_terminal,
            speed_estimate_period=600,
        )

    def before_run(self, runner: Runner) -> None:
        """Leave the terminal to the first process."""
        self.console.quiet = not is_main_process()

    def before_train(self, runner: Runner) -> None:
        """Say what is trained on what, and start at the current iteration."""
        self._introduce(runner, train=runner.train_loop, val=runner.val_loop)
        self._start('training', runner.max_iters, runner.iter)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Advance."""
        loss = runner.message_hub.get_scalar('train/loss').mean(window_size=20)
        self._advance(runner, runner.iter + 1, description='training', loss=f'loss {loss:.3f}')

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Count the validated batches."""
        if self.progress.tasks:  # not in a validation of its own
            count = f'validation {batch_idx + 1}/{len(runner.val_dataloader)}'
            self.progress.update(self.progress.task_ids[-1], description=count)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Show the new metric."""
        if metrics and self.progress.tasks:
            self.result = metrics
            first = _listed({self.metric: metrics[self.metric]} if self.metric in metrics else metrics).split(', ')[0]
            self.progress.update(self.progress.task_ids[-1], metric=first)
            if self.progress.disable:
                self.console.print(f'validation after iteration {runner.iter}: {_listed(metrics)}')

    def after_train(self, runner: Runner) -> None:
        """Close the bar and say where the result is."""
        self.progress.stop()
        result = f'{_listed(self.result)}; ' if self.result else ''
        self.console.print(f'Trained {runner.iter} iterations: {result}checkpoints in {runner.work_dir}')

    def before_test(self, runner: Runner) -> None:
        """Say what is tested on what."""
        self._introduce(runner, test=runner.test_loop)
        self._start('testing', len(runner.test_dataloader), 0)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Advance."""
        self._advance(runner, batch_idx + 1)

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Close the bar and show the metrics."""
        self.progress.stop()
        for name, value in (metrics or {}).items():
            self.console.print(f'{name:20} {value:.2f}' if isinstance(value, Real) else f'{name}\n{value}')

    def _introduce(self, runner: Runner, **loops: object) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        parts = ('backbone', 'neck', 'decode_head', 'head')
        names = [type(part).__name__ for part in (getattr(model, name, None) for name in parts) if part is not None]
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        self.console.print(f'{type(model).__name__} of {", ".join(names)}: {millions:.1f} M parameters')
        for name, loop in loops.items():
            if loop is not None:
                dataset = loop.dataloader.dataset
                self.console.print(f'{name}: {len(dataset)} images of {type(_innermost(dataset)).__name__}')
        self.console.print(f'log: {Path(runner.log_dir, runner.timestamp)}.log')

    def _start(self, name: str, total: int, completed: int) -> None:
        for task in self.progress.task_ids:
            self.progress.remove_task(task)
        self.progress.add_task(name, total=total, completed=completed, loss='', metric='')
        self.progress.start()
        if not self.progress.disable:
            atexit.register(self.progress.stop)  # a signal ends the training without after_train

    def _advance(self, runner: Runner, done: int, **fields: str) -> None:
        (task,) = self.progress.tasks
        self.progress.update(task.id, completed=done, **fields)
        if self.progress.disable and (done % _interval(runner.hooks) == 0 or done == task.total):
            columns = [column for column in self.progress.columns if not isinstance(column, BarColumn)]
            self.console.print(' '.join(filter(None, (str(column(task)).strip() for column in columns))))


def _innermost(dataset: Dataset) -> Dataset:
    while hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    return dataset


def _interval(hooks: Iterable[Hook]) -> int:
    return next((hook.interval for hook in hooks if isinstance(hook, LoggerHook)), 50)


def _listed(metrics: dict) -> str:
    """Return the numbers in a line, without those of single classes."""
    shown = {name: value for name, value in metrics.items() if isinstance(value, Real) and not name.startswith('IoU.')}
    return ', '.join(f'{name} {value:.2f}' for name, value in shown.items())
