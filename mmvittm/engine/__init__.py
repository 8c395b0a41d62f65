from .bf16_optim_wrapper import Bf16OptimWrapper
from .checkpoint_fit_hook import CheckpointFitHook
from .progress_bar_hook import ProgressBarHook

__all__ = ['Bf16OptimWrapper', 'CheckpointFitHook', 'ProgressBarHook']
