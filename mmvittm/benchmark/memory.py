"""The memory a pass takes on top of what was held before it, e.g. the weights."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

from .timing import Run

_STATUS = Path('/proc/self/status')
_CLEAR_REFS = Path('/proc/self/clear_refs')


def peak_on_cpu(run: Run) -> int | None:
    """Bytes by which the process grows at most during ``run``; None where Linux does not tell.

    What the allocator still holds from earlier passes is given back to the system first, so that it counts again.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        _CLEAR_REFS.write_text('5')  # sets the high-water mark back to what is resident now
        before = _status('VmRSS')
        run()
        return _status('VmHWM') - before
    except (OSError, AttributeError, KeyError):  # not Linux, not glibc, or not allowed
        return None


def _status(name: str) -> int:
    """A value of the kernel's account of this process, in bytes."""
    lines = dict(line.split(':', 1) for line in _STATUS.read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def peak_on_cuda(run: Run) -> int:
    """Bytes that PyTorch's allocator hands out at most during ``run``, on top of what is held before."""
    # Written without a GPU at hand and never run on one.
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


PEAKS: dict[str, Callable[[Run], int | None]] = {'cpu': peak_on_cpu, 'cuda': peak_on_cuda}
