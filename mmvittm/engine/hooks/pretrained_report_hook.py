from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import CheckpointLoader, Runner

from ...errors import UserError
from ...registry import HOOKS
from ...weights.loading import weights_of
from ...weights.mismatch import describe_pretrained


@HOOKS.register_module()
class PretrainedReportHook(Hook):
    """Report in one sentence what each ``init_cfg=dict(type='Pretrained', …)`` of the model loads and what it does not.

    mmengine loads the keys that fit, ignores the others and lists them all.
    """

    def before_run(self, runner: Runner) -> None:
        """Compare each checkpoint with its module before mmengine loads it.

        Raises:
            UserError: If no key of a checkpoint has the prefix.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for name, module in model.named_modules():
            init_cfg = getattr(module, 'init_cfg', None)
            if not isinstance(init_cfg, dict) or init_cfg.get('type') != 'Pretrained':
                continue
            checkpoint = init_cfg['checkpoint']
            weights = weights_of(CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu', logger=None))
            name = name or 'the model'
            try:
                report = describe_pretrained(module, weights, init_cfg.get('prefix') or '')
            except UserError as error:
                raise UserError(f'init_cfg of {name}, {checkpoint}: {error}') from error
            runner.logger.info(f'init_cfg of {name}, {checkpoint}: {report}', extra=dict(terminal=True))
