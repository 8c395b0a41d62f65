import torch
from mmengine.dist import all_reduce
from mmengine.hooks import RuntimeInfoHook
from mmengine.runner import Runner

from ...registry import HOOKS


@HOOKS.register_module()
class MeanRuntimeInfoHook(RuntimeInfoHook):
    """mmengine's RuntimeInfoHook, by which a distributed run logs the mean over processes, not the first one's share.

    A run of n processes then logs what one process logs on the same global batch, at the cost of one small message.
    """

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        """Hand on the losses and accuracies of ``outputs``, each averaged over processes."""
        tensors = {name: value for name, value in (outputs or {}).items() if torch.is_tensor(value)}
        if runner.world_size > 1 and tensors:
            means = torch.stack([value.detach().float().mean() for value in tensors.values()])
            all_reduce(means, 'mean')
            outputs = outputs | dict(zip(tensors, means, strict=True))
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
