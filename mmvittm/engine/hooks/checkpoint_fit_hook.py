from mmengine.dist import broadcast_object_list
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...errors import UserError
from ...registry import HOOKS
from ...weights.loading import weights_of
from ...weights.mismatch import describe_mismatch, describe_pretrained
from ..checkpoints import require_training_state


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Report how a loaded checkpoint differs from the model and the training; mmengine would list every key.

    Args:
        strict (bool): Treat a difference as an error, as for testing and resuming, rather than as a warning, as for
            fine-tuning with a new head. NaN, or no weight that fits, is always an error.
    """

    priority = 'VERY_HIGH'  # before EMAHook uses the checkpoint

    def __init__(self, strict: bool) -> None:
        self.strict = strict

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the checkpoint with the model.

        Raises:
            UserError: If they differ and ``strict`` is set, if nothing fits or weights are NaN, or if a training is to
                be resumed from weights alone.
        """
        if runner._resume:
            _require_whole_state(runner, checkpoint)
        model = runner.model.module if isinstance(runner.model, DistributedDataParallel) else runner.model
        result = [self._compare(model, weights_of(checkpoint))]
        broadcast_object_list(result)  # under FSDP only the first process has the full weights
        ((problem, report),) = result
        if problem:
            raise UserError(f'the checkpoint does not fit the model of this config: {problem}')
        if report:
            runner.logger.warning(f'the checkpoint fits only part of the model: {report}')

    def _compare(self, model: nn.Module, weights: dict[str, Tensor]) -> tuple[str | None, str | None]:
        """Return why the weights cannot be loaded, or which are loaded if not all."""
        problem = describe_mismatch(model, weights)
        if self.strict or not problem:
            return problem, None
        try:
            return None, describe_pretrained(model, weights)
        except UserError as error:
            return str(error), None


def _require_whole_state(runner: Runner, checkpoint: dict) -> None:
    require_training_state(checkpoint, runner._load_from)
    if 'ema_state_dict' in checkpoint and not any(isinstance(hook, EMAHook) for hook in runner.hooks):
        raise UserError(
            f'checkpoint {runner._load_from} has averaged weights, and this config no EMAHook: add the EMAHook, or '
            'start from the average with --cfg-options load_from=CHECKPOINT'
        )
    if getattr(runner, 'param_schedulers', None) and 'param_schedulers' not in checkpoint:
        raise UserError(
            f'checkpoint {runner._load_from} has no state of the schedulers that this config has: remove '
            'param_scheduler, or start from its weights with --cfg-options load_from=CHECKPOINT'
        )
