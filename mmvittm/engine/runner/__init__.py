from .fsdp_strategy import FSDPStrategy
from .loops import ReadableTestLoop, ReadableValLoop, ResumableEpochLoop, ResumableIterLoop

__all__ = [
    'FSDPStrategy',
    'ReadableTestLoop',
    'ReadableValLoop',
    'ResumableEpochLoop',
    'ResumableIterLoop',
]
