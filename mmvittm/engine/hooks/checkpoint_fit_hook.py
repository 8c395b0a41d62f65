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
    """Says how a loaded checkpoint differs from the model, by part, before mmengine lists every key.

    Args:
        strict (bool): Whether a difference is an error, as when testing or resuming, or a warning, as when a
            pretrained model gets a new head.
    """

    def __init__(self, strict: bool) -> None:
        self.strict = strict

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the checkpoint with the model.

        Raises:
            UserError: If it does not fit and ``strict`` is set.
        """
        model = runner.model.module if isinstance(runner.model, DistributedDataParallel) else runner.model
        problems = [describe_mismatch(model, weights_of(checkpoint))]
        broadcast_object_list(problems)  # of an FSDP model only the first process sees the whole weights
        (problem,) = problems
        if problem and self.strict:
            raise UserError(f'the checkpoint does not fit the model of this config: {problem}')
        if problem:
            runner.logger.warning(f'the checkpoint fits the model in part: {problem}')
