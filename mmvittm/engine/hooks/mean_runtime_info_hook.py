import torch
from mmengine.dist import all_reduce
from mmengine.hooks import RuntimeInfoHook
from mmengine.runner import Runner

from ...registry import HOOKS


@HOOKS.register_module()
class MeanRuntimeInfoHook(RuntimeInfoHook):
    """mmengine's RuntimeInfoHook, logging the mean over all processes instead of the values of the first.

    A distributed run then logs what one process logs on the same global batch. It costs one small all-reduce.
    """

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        """Average the losses and accuracies in ``outputs`` over processes before they are logged."""
        tensors = {name: value for name, value in (outputs or {}).items() if torch.is_tensor(value)}
        if runner.world_size > 1 and tensors:
            means = torch.stack([value.detach().float().mean() for value in tensors.values()])
            all_reduce(means, 'mean')
            outputs = outputs | dict(zip(tensors, means, strict=True))
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
