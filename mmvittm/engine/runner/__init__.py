from .fsdp_strategy import FSDPStrategy
from .loops import CheckedTestLoop, CheckedValLoop, ResumableEpochLoop, ResumableIterLoop

__all__ = [
    'CheckedTestLoop',
    'CheckedValLoop',
    'FSDPStrategy',
    'ResumableEpochLoop',
    'ResumableIterLoop',
]
