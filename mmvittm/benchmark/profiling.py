"""Profile of one pass: time by stage of the network, and peak memory."""

import ctypes
import gc
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..models import ViTTM
from .timing import Run, timer_on

#: In the order of a pass; ``'rest'`` is the time outside all others.
STAGES = ('embedding', 'read', 'ViT block', 'write', 'memory block', 'neck', 'head', 'rest')
_AROUND = {'neck': 'neck', 'decode_head|head': 'head'}
_VITTM = {
    '(memory|process)_embed': 'embedding',
    r'layers\.\d+\.(read_norm|read_head)|read_fusion': 'read',
    r'layers\.\d+\.vit_block': 'ViT block',
    r'layers\.\d+\.(write_norm|write_head)|write_fusion': 'write',
    r'layers\.\d+\.memory_block': 'memory block',
}
_VIT = {'patch_embed': 'embedding', r'layers\.\d+': 'ViT block'}


def staged_modules(network: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yield the modules to time, none inside another, and their stages."""
    stages = _AROUND | (_VITTM if any(isinstance(module, ViTTM) for module in network.modules()) else _VIT)
    for name, module in network.named_modules():
        inner = name.removeprefix('model.').removeprefix('backbone.')
        yield from ((module, stage) for pattern, stage in stages.items() if re.fullmatch(pattern, inner))


def time_stages(network: nn.Module, run: Run, passes: int, device: str = 'cpu') -> dict[str, float]:
    """Time the stages of ``network`` during ``passes`` calls of ``run``, which runs it.

    Returns:
        dict[str, float]: Milliseconds by stage, the mean of the middle half of the passes.
    """
    timer, staged = timer_on(device), [(module, module.forward, stage) for module, stage in staged_modules(network)]
    totals = []

    def timed(forward: Callable, stage: str) -> Callable:
        def call(*args, **kwargs):
            outputs = []
            times[stage] += timer(lambda: outputs.append(forward(*args, **kwargs)))
            return outputs[0]

        return call

    try:
        for module, forward, stage in staged:  # hooks would miss direct calls of `forward`
            module.forward = timed(forward, stage)
        for _ in range(passes):
            times: Counter[str] = Counter()
            times['rest'] = timer(run) - times.total()
            totals.append(times)
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
    except (OSError, AttributeError, KeyError):  # not Linux, not glibc, or not allowed
        before = None
    run()
    return None if before is None else _status('VmHWM') - before


def _status(name: str) -> int:
    lines = dict(line.split(':', 1) for line in Path('/proc/self/status').read_text().splitlines())
    return int(lines[name].split()[0]) * 1024
