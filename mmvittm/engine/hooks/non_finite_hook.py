import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.optim import Optimizer

from ...errors import UserError
from ...registry import HOOKS


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Takes no step on gradients that are NaN or infinite, and stops after too many such batches in a row.

    A batch that is passed over leaves no trace in the weights, the optimizer or the statistics of batch norms; the
    warning names its files. All processes decide alike. Under fp16 it is mmengine's loss scaler that skips steps.

    Args:
        patience (int): So many in a row end the training. Defaults to 5.
    """

    priority = 'HIGH'  # before the hooks that average or save the weights

    def __init__(self, patience: int = 5) -> None:
        self.patience = patience
        self.files = []  # of the batches in a row

    def before_train(self, runner: Runner) -> None:
        """Look at the gradients before each step of the optimizer."""
        self.in_a_row = 0
        self.handle = runner.optim_wrapper.optimizer.register_step_pre_hook(self._drop_non_finite)

    def _drop_non_finite(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group['params'] if p.grad is not None]
        norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
        bad = (~torch.stack(norms).isfinite().all()).int()
        all_reduce(bad, 'max')  # under FSDP each process has a share of the gradients
        self.dropped = bool(bad)
        if self.dropped:
            optimizer.zero_grad(set_to_none=True)  # without a gradient a parameter and its moments stay as they are

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Keep what a forward pass changes."""
        self.dropped = False
        self.buffers = [(buffer, buffer.clone()) for buffer in runner.model.buffers()]

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Name the files, undo the forward pass.

        Raises:
            UserError: If it was one too many.
        """
        loss_is_bad = not bool(torch.as_tensor((outputs or {}).get('loss', 0.0)).isfinite())
        if not (self.dropped or loss_is_bad):
            self.in_a_row, self.files = 0, []
            return
        for buffer, before in self.buffers:
            buffer.copy_(before)
        here = [sample.get('img_path', '?') for sample in (data_batch or {}).get('data_samples', ())]
        # the processes whose own loss is finite have only shared the gradients
        files = all_gather_object(here if loss_is_bad else []) if self.dropped else [here]
        self.files += [file for each in files for file in each] or here
        self.in_a_row += 1
        batch = f'the loss or its gradient is not finite in iteration {runner.iter + 1}'
        if self.in_a_row >= self.patience:
            raise UserError(
                f'{batch}, number {self.in_a_row} in a row: look at these files, or at the learning rate: '
                f'{", ".join(dict.fromkeys(self.files))}'
            )
        runner.logger.warning(f'{batch}: passed over ({self.in_a_row} in a row), files: {", ".join(here)}')

    def after_train(self, runner: Runner) -> None:
        """Leave the optimizer as it was."""
        self.handle.remove()
