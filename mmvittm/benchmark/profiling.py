"""Profile of one pass: time by stage of the network, and peak memory."""

import ctypes
import gc
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..models import ViTTM
from .timing import Run

#: In the order of a pass; ``'rest'`` is the time outside all others.
STAGES = ('embedding', 'read', 'ViT block', 'write', 'memory block', 'neck', 'head', 'rest')
_AROUND = {r'.*\bneck': 'neck', r'.*\b(decode_head|head)': 'head'}
_VITTM = {
    r'.*\b(memory_embed|process_embed)': 'embedding',
    r'.*\blayers\.\d+\.(read_norm|read_head)|.*\bread_fusion': 'read',
    r'.*\blayers\.\d+\.vit_block': 'ViT block',
    r'.*\blayers\.\d+\.(write_norm|write_head)|.*\bwrite_fusion': 'write',
    r'.*\blayers\.\d+\.memory_block': 'memory block',
}
_VIT = {r'.*\bpatch_embed': 'embedding', r'.*\blayers\.\d+': 'ViT block'}


def staged_methods(network: nn.Module) -> Iterator[tuple[object, str, str]]:
    """Yield owner, name and stage of the methods to time."""
    vittm = next((module for module in network.modules() if isinstance(module, ViTTM)), None)
    if hasattr(vittm, '_embed'):
        yield vittm, '_embed', 'embedding'  # one product may embed both streams
    for name, module in network.named_modules():
        for pattern, stage in (_AROUND | (_VITTM if vittm else _VIT)).items():
            if re.fullmatch(pattern, name):
                yield module, 'forward', stage


class Stopwatch:
    """Sums the milliseconds of each stage. An inner stage does not count for the outer one: stages sum to the pass."""

    def __init__(self, device: str = 'cpu') -> None:
        self.synchronize = torch.cuda.synchronize if device == 'cuda' else lambda: None
        self.times: Counter[str] = Counter()
        self._inner: list[float] = []

    def timed(self, function: Callable, stage: str) -> Callable:
        """Wrap ``function`` so that its time is added to ``stage``."""

        def call(*args, **kwargs):
            self.synchronize()
            self._inner.append(0.0)
            start = time.perf_counter()
            result = function(*args, **kwargs)
            self.synchronize()
            elapsed = (time.perf_counter() - start) * 1e3
            self.times[stage] += elapsed - self._inner.pop()
            if self._inner:
                self._inner[-1] += elapsed
            return result

        return call


def time_stages(network: nn.Module, run: Run, passes: int, device: str = 'cpu') -> dict[str, float]:
    """Time the stages of ``network`` during ``passes`` calls of ``run``, which runs it.

    Returns:
        dict[str, float]: Milliseconds by stage, the mean of the middle half of the passes.
    """
    watches = [Stopwatch(device) for _ in range(passes)]
    methods = [(owner, name, getattr(owner, name), stage) for owner, name, stage in staged_methods(network)]
    try:
        for watch in watches:
            for owner, name, method, stage in methods:  # hooks would miss direct calls of `forward`
                setattr(owner, name, watch.timed(method, stage))
            watch.timed(run, 'rest')()
    finally:
        for owner, name, *_ in methods:
            vars(owner).pop(name, None)
    totals = [watch.times.total() for watch in watches]
    low, high = np.percentile(totals, (25, 75), method='nearest')
    middle = [watch.times for watch, total in zip(watches, totals, strict=True) if low <= total <= high]
    return {stage: float(np.mean([own[stage] for own in middle])) for stage in STAGES if stage in middle[0]}


def peak_memory(run: Run, device: str = 'cpu') -> int | None:
    """Bytes that ``run`` takes on top of what was held before; None where the system does not tell."""
    gc.collect()
    if device == 'cuda':  # never run on a GPU so far
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # returns memory of earlier passes to the system, so that it counts again
        Path('/proc/self/clear_refs').write_text('5')  # resets the high-water mark
        before = _status('VmRSS')
        run()
        return _status('VmHWM') - before
    except (OSError, AttributeError, KeyError):  # not Linux, not glibc, or not allowed
        return None


def _status(name: str) -> int:
    lines = dict(line.split(':', 1) for line in Path('/proc/self/status').read_text().splitlines())
    return int(lines[name].split()[0]) * 1024
