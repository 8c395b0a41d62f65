from collections.abc import Iterable

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmseg.models import EncoderDecoder
from torch.nn.modules.batchnorm import _BatchNorm

from ...registry import HOOKS


@HOOKS.register_module()
class SceneStatisticsHook(Hook):
    """Take the statistics of batch norm from the whole scenes of the validation data.

    For models that train on windows: what the process tokens write depends on all of the image, so every window has
    other means, and their running average fits neither a window nor the scene. Labels are not used. Training itself
    normalizes by the batch and is not affected.

    Args:
        interval (int): Iterations between updates, besides that after the last one; as that of the checkpoints.
    """

    def __init__(self, interval: int) -> None:
        self.interval = interval

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Update the statistics before they are saved and validated."""
        if self.every_n_train_iters(runner, self.interval) or self.is_last_train_iter(runner):
            model = runner.model.module if is_model_wrapper(runner.model) else runner.model
            measure_statistics(model, runner.val_loop.dataloader)
            model.train()


@torch.no_grad()
def measure_statistics(model: EncoderDecoder, batches: Iterable[dict]) -> None:
    """Set the running statistics of every batch norm to their averages over ``batches``.

    Args:
        model (EncoderDecoder): Is left in evaluation mode.
        batches (Iterable[dict]): Batches of a data loader.
    """
    model.eval()
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
    for batch in batches:
        model(**model.data_preprocessor(batch, False), mode='tensor')
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
