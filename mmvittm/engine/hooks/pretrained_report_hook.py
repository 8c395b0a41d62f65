from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import CheckpointLoader, Runner
from torch import nn

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
            UserError: If nothing would be loaded, or NaN.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        for name, module in model.named_modules():
            init_cfg = getattr(module, 'init_cfg', None)
            for cfg in init_cfg if isinstance(init_cfg, list) else [init_cfg]:
                if isinstance(cfg, dict) and cfg.get('type') == 'Pretrained':
                    _report(runner, name or 'the model', module, cfg)


def _report(runner: Runner, name: str, module: nn.Module, init_cfg: dict) -> None:
    checkpoint, prefix = init_cfg['checkpoint'], init_cfg.get('prefix') or ''
    weights = weights_of(CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu', logger='silent'))
    try:
        report = describe_pretrained(module, weights, prefix)
    except UserError as error:
        raise UserError(f'init_cfg of {name}, {checkpoint}, prefix {prefix!r}: {error}') from error
    runner.logger.info(f'init_cfg of {name}, {checkpoint}: {report}', extra=dict(terminal=True))
