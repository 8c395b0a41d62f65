from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ...registry import HOOKS


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """Show a progress bar of the iterations, with the running loss and the metric of the last validation.

    Args:
        metric (str): The metric to show. Defaults to 'mIoU'.
    """

    priority = 'VERY_LOW'

    def __init__(self, metric: str = 'mIoU') -> None:
        self.metric = metric
        self.progress = Progress(
            TextColumn('training'),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn('loss {task.fields[loss]:.3f}'),
            TextColumn('{task.fields[metric]}'),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )

    def before_train(self, runner: Runner) -> None:
        """Start the bar at the current iteration."""
        self.task = self.progress.add_task(
            '', total=runner.max_iters, completed=runner.iter, loss=float('nan'), metric=''
        )
        self.progress.start()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Advance the bar."""
        loss = runner.message_hub.get_scalar('train/loss').mean(window_size=20)
        self.progress.update(self.task, completed=runner.iter + 1, loss=loss)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Show the new metric."""
        value = (metrics or {}).get(self.metric)
        if value is not None:
            self.progress.update(self.task, metric=f'{self.metric} {value:.2f}')

    def after_train(self, runner: Runner) -> None:
        """Close the bar."""
        self.progress.stop()
