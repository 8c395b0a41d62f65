from .checkpoint_fit_hook import CheckpointFitHook
from .progress_bar_hook import ProgressBarHook

__all__ = ['CheckpointFitHook', 'ProgressBarHook']
