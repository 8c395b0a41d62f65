from .fsdp_strategy import FSDPStrategy
from .readable_loops import ReadableTestLoop, ReadableValLoop
from .resumable_loops import ResumableEpochLoop, ResumableIterLoop

__all__ = [
    'FSDPStrategy',
    'ReadableTestLoop',
    'ReadableValLoop',
    'ResumableEpochLoop',
    'ResumableIterLoop',
]
