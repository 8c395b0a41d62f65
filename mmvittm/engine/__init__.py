from .bf16_optim_wrapper import Bf16OptimWrapper
from .checkpoint_fit_hook import CheckpointFitHook
from .fsdp_strategy import FSDPStrategy
from .mean_loss_hook import MeanLossHook
from .non_finite_hook import NonFiniteHook
from .progress_bar_hook import ProgressBarHook
from .resumable_loops import ResumableEpochLoop, ResumableIterLoop
from .safe_checkpoint_hook import AtomicBackend, SafeCheckpointHook
from .stop_on_signal_hook import StopOnSignalHook

__all__ = [
    'AtomicBackend',
    'Bf16OptimWrapper',
    'CheckpointFitHook',
    'FSDPStrategy',
    'MeanLossHook',
    'NonFiniteHook',
    'ProgressBarHook',
    'ResumableEpochLoop',
    'ResumableIterLoop',
    'SafeCheckpointHook',
    'StopOnSignalHook',
]
