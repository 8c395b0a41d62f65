from .checkpoint_fit_hook import CheckpointFitHook
from .mean_runtime_info_hook import MeanRuntimeInfoHook
from .non_finite_hook import NonFiniteHook
from .pretrained_report_hook import PretrainedReportHook
from .progress_bar_hook import ProgressBarHook
from .safe_checkpoint_hook import AtomicBackend, SafeCheckpointHook
from .stop_on_signal_hook import StopOnSignalHook
from .sync_running_stats_hook import SyncRunningStatsHook
from .training_dynamics_hook import TrainingDynamicsHook

__all__ = [
    'AtomicBackend',
    'CheckpointFitHook',
    'MeanRuntimeInfoHook',
    'NonFiniteHook',
    'PretrainedReportHook',
    'ProgressBarHook',
    'SafeCheckpointHook',
    'StopOnSignalHook',
    'SyncRunningStatsHook',
    'TrainingDynamicsHook',
]
