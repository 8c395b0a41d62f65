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


def staged_modules(network: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yield the modules to time, and their stages."""
    stages = _AROUND | (_VITTM if any(isinstance(module, ViTTM) for module in network.modules()) else _VIT)
    for name, module in network.named_modules():
        for pattern, stage in stages.items():
            if re.fullmatch(pattern, name):
                yield module, stage


class Stopwatch:
    """Sums the milliseconds of each stage. An inner stage does not count for the outer one: stages sum to the pass."""

    def __init__(self, device: str = 'cpu') -> None:
        self.synchronize = torch.cuda.synchronize if device == 'cuda' else lambda: None
        self.times: Counter[str] = Counter()
        self.stages = ['outside']
        self.last = 0.0

    def tick(self) -> None:
        """Add the time since the last tick to the innermost stage."""
        self.synchronize()
        now = time.perf_counter()
        self.times[self.stages[-1]] += (now - self.last) * 1e3
        self.last = now

    def timed(self, function: Callable, stage: str) -> Callable:
        """Wrap ``function`` so that its time is added to ``stage``."""

        def call(*args, **kwargs):
            self.tick()
            self.stages.append(stage)
            result = function(*args, **kwargs)
            self.tick()
            self.stages.pop()
            return result

        return call


def time_stages(network: nn.Module, run: Run, passes: int, device: str = 'cpu') -> dict[str, float]:
    """Time the stages of ``network`` during ``passes`` calls of ``run``, which runs it.

    Returns:
        dict[str, float]: Milliseconds by stage, the mean of the middle half of the passes.
    """
    staged = [(module, module.forward, stage) for module, stage in staged_modules(network)]
    totals = []
    try:
        for _ in range(passes):
            watch = Stopwatch(device)
            for module, forward, stage in staged:  # hooks would miss direct calls of `forward`
                module.forward = watch.timed(forward, stage)
            watch.timed(run, 'rest')()
            del watch.times['outside']
            totals.append(watch.times)
    finally:
        for module, *_ in staged:
            vars(module).pop('forward', None)
    middle = sorted(totals, key=Counter.total)[passes // 4 : passes - passes // 4]
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
