import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.optim import Optimizer

from ...errors import UserError
from ...registry import HOOKS


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Skip batches whose loss or gradient is NaN or infinite, and stop after too many in a row.

    A skipped batch changes neither the weights nor the optimizer state nor the batch norm statistics; a warning names
    its files. All processes skip together. With gradient accumulation, all batches of the optimizer step are skipped.
    Under fp16, mmengine's loss scaler skips the steps itself.

    Args:
        patience (int): Number of skipped steps in a row that ends the training. Defaults to 5.
    """

    priority = 'HIGH'  # before the hooks that average or save the weights

    def __init__(self, patience: int = 5) -> None:
        self.patience = patience
        self.suspects = []  # files with a bad loss since the last step, in this process
        self.files = []  # of the skipped steps in a row, in all processes

    def before_train(self, runner: Runner) -> None:
        """Check the gradients before each optimizer step."""
        self.in_a_row = 0
        self.handle = runner.optim_wrapper.optimizer.register_step_pre_hook(self._drop_non_finite)

    def _drop_non_finite(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group['params'] if p.grad is not None]
        norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
        bad = (~torch.stack(norms).isfinite().all()).int()
        all_reduce(bad, 'max')  # under FSDP each process has a shard of the gradients
        self.dropped, self.stepped = bool(bad), not bad
        if self.dropped:
            optimizer.zero_grad(set_to_none=True)  # optimizers leave parameters without a gradient as they are

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Copy the buffers, which the forward pass changes."""
        self.dropped = self.stepped = False
        self.buffers = [(buffer, buffer.clone()) for buffer in runner.model.buffers()]

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Restore the buffers after a bad batch, and report the files of a skipped step.

        Raises:
            UserError: If ``patience`` steps in a row were skipped.
        """
        here = [sample.get('img_path', '?') for sample in (data_batch or {}).get('data_samples', ())]
        loss_is_bad = not bool(torch.as_tensor((outputs or {}).get('loss', 0.0)).isfinite())
        if loss_is_bad:
            self.suspects += here
        if loss_is_bad or self.dropped:
            for buffer, before in self.buffers:
                buffer.copy_(before)
        if not runner.optim_wrapper.should_update():
            return
        if self.stepped:
            self.in_a_row, self.suspects, self.files = 0, [], []
            return
        # a process with a finite loss got the bad gradient from the all-reduce
        suspects = [file for each in all_gather_object(self.suspects) for file in each]
        self.suspects = []
        if not (suspects or self.dropped):
            return  # fp16: the gradients overflowed, and the loss scaler lowers its scale
        suspects = suspects or here
        self.files += suspects
        self.in_a_row += 1
        batch = f'the loss or its gradient is not finite in iteration {runner.iter + 1}'
        if self.in_a_row >= self.patience:
            raise UserError(
                f'{batch}, {self.in_a_row} batches in a row: check the learning rate and these files: '
                f'{", ".join(dict.fromkeys(self.files))}'
            )
        runner.logger.warning(f'{batch}: batch skipped ({self.in_a_row} in a row), files: {", ".join(suspects)}')

    def after_train(self, runner: Runner) -> None:
        """Remove the check from the optimizer."""
        self.handle.remove()
