from mmengine.dist import broadcast_object_list
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.nn.parallel import DistributedDataParallel

from ...errors import UserError
from ...registry import HOOKS
from ...weights.loading import weights_of
from ...weights.mismatch import describe_mismatch


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Report by module how a loaded checkpoint differs from the model; mmengine would list every key.

    Args:
        strict (bool): Treat a difference as an error, as for testing and resuming, rather than as a warning, as for
            fine-tuning with a new head.
    """

    def __init__(self, strict: bool) -> None:
        self.strict = strict

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the checkpoint with the model.

        Raises:
            UserError: If they differ and ``strict`` is set.
        """
        model = runner.model.module if isinstance(runner.model, DistributedDataParallel) else runner.model
        problems = [describe_mismatch(model, weights_of(checkpoint))]
        broadcast_object_list(problems)  # under FSDP only the first process has the full weights
        (problem,) = problems
        if problem and self.strict:
            raise UserError(f'the checkpoint does not fit the model of this config: {problem}')
        if problem:
            runner.logger.warning(f'the checkpoint fits only part of the model: {problem}')
