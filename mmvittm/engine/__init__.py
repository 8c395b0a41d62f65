from .bf16_optim_wrapper import Bf16OptimWrapper
from .checkpoint_fit_hook import CheckpointFitHook
from .fsdp_strategy import FSDPStrategy
from .layer_decay import LayerDecayOptimWrapperConstructor
from .mean_runtime_info_hook import MeanRuntimeInfoHook
from .non_finite_hook import NonFiniteHook
from .pretrained_report_hook import PretrainedReportHook
from .progress_bar_hook import ProgressBarHook
from .readable_loops import ReadableTestLoop, ReadableValLoop
from .resumable_loops import ResumableEpochLoop, ResumableIterLoop
from .safe_checkpoint_hook import AtomicBackend, SafeCheckpointHook
from .stop_on_signal_hook import StopOnSignalHook
from .training_dynamics_hook import TrainingDynamicsHook

__all__ = [
    'AtomicBackend',
    'Bf16OptimWrapper',
    'CheckpointFitHook',
    'FSDPStrategy',
    'LayerDecayOptimWrapperConstructor',
    'MeanRuntimeInfoHook',
    'NonFiniteHook',
    'PretrainedReportHook',
    'ProgressBarHook',
    'ReadableTestLoop',
    'ReadableValLoop',
    'ResumableEpochLoop',
    'ResumableIterLoop',
    'SafeCheckpointHook',
    'StopOnSignalHook',
    'TrainingDynamicsHook',
]
