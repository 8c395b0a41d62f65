import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..registry import HOOKS


@HOOKS.register_module()
class MeanLossHook(Hook):
    """Makes what is logged in a distributed run the mean over processes, where mmengine logs the first one's share.

    Then a run on n GPUs logs what one process logs on the same global batch, at the cost of one small message.
    """

    priority = 'HIGHEST'  # before the hook that logs

    def before_train(self, runner: Runner) -> None:
        """Look whether there is anything to do."""
        self.world_size = runner.world_size

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        """Replace every tensor of ``outputs`` (losses, accuracies) by its mean over processes."""
        names = [name for name, value in (outputs or {}).items() if torch.is_tensor(value)]
        if self.world_size > 1 and names:
            means = torch.stack([outputs[name].detach().float().mean() for name in names])
            all_reduce(means, 'mean')
            outputs.update(zip(names, means, strict=True))
