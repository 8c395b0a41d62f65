from mmengine.dist import all_reduce_params
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.nn import SyncBatchNorm
from torch.nn.modules.batchnorm import _NormBase

from ...registry import HOOKS


@HOOKS.register_module()
class SyncRunningStatsHook(Hook):
    """Average the running statistics of norms over all processes after each iteration.

    Without SyncBN, so on CPUs, each process updates them with its own batches only. It would validate with these, and
    the checkpoints would have those of the first process.
    """

    priority = 'ABOVE_NORMAL'  # before the hooks that average or save the model, after the one that skips batches

    def before_train(self, runner: Runner) -> None:
        """Find the norms with running statistics; those of SyncBN are the same in all processes."""
        norms = [module for module in runner.model.modules() if isinstance(module, _NormBase)]
        stats = [(norm.running_mean, norm.running_var) for norm in norms if not isinstance(norm, SyncBatchNorm)]
        self.buffers = [buffer for pair in stats for buffer in pair if buffer is not None]

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Average the statistics."""
        all_reduce_params(self.buffers, op='mean')
