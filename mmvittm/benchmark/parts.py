"""Where in a network the time goes."""

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

import numpy as np
import torch
from torch import nn

from ..models import ViTTM
from .timing import Run

REST = 'rest'
_AROUND = {r'.*\bneck': 'neck', r'.*\b(decode_head|head)': 'head'}
_VITTM = {
    r'.*\b(memory_embed|process_embed)': 'embedding',
    r'.*\blayers\.\d+\.(read_norm|read_head)|.*\bread_fusion': 'read',
    r'.*\blayers\.\d+\.vit_block': 'ViT block',
    r'.*\blayers\.\d+\.(write_norm|write_head)|.*\bwrite_fusion': 'write',
    r'.*\blayers\.\d+\.memory_block': 'memory block',
}
_PLAIN_VIT = {r'.*\bpatch_embed': 'embedding', r'.*\blayers\.\d+': 'ViT block'}
#: In the order in which a pass goes through them.
PARTS = ('embedding', 'read', 'ViT block', 'write', 'memory block', 'neck', 'head', REST)


def named_parts(network: nn.Module) -> Iterator[tuple[object, str, str]]:
    """What to time: for each part's pieces their owner, the name of the method, and the part."""
    backbone = next((module for module in network.modules() if isinstance(module, ViTTM)), None)
    patterns = _AROUND | (_VITTM if backbone else _PLAIN_VIT)
    if backbone:
        yield backbone, '_embed', 'embedding'  # both streams may come from one product
    for name, module in network.named_modules():
        for pattern, part in patterns.items():
            if re.fullmatch(pattern, name):
                yield module, 'forward', part


class Stopwatch:
    """Adds up the milliseconds of each part; a part within another is taken off the outer one.

    So the parts of a pass sum to the pass.
    """

    def __init__(self, device: str = 'cpu') -> None:
        self.synchronize = torch.cuda.synchronize if device == 'cuda' else lambda: None
        self.times: defaultdict[str, float] = defaultdict(float)
        self._within: list[float] = []

    def timed(self, function: Callable, part: str) -> Callable:
        """``function``, its time added to ``part``."""

        @wraps(function)
        def call(*args, **kwargs):
            self.synchronize()
            self._within.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.synchronize()
                elapsed = (time.perf_counter() - start) * 1e3
                self.times[part] += elapsed - self._within.pop()
                if self._within:
                    self._within[-1] += elapsed

        return call

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Time the parts of ``network`` within the block."""
        pieces = [(owner, method, part) for owner, method, part in named_parts(network) if hasattr(owner, method)]
        for owner, method, part in pieces:
            # on the object, so that direct calls of forward are seen too
            setattr(owner, method, self.timed(getattr(owner, method), part))
        try:
            yield
        finally:
            for owner, method, _ in pieces:
                delattr(owner, method)


def time_parts(network: nn.Module, run: Run, passes: int, device: str = 'cpu') -> dict[str, float]:
    """Milliseconds of a pass by part.

    Args:
        network (nn.Module): The network that ``run`` runs, as :func:`~mmvittm.apis.tasks.inference_network` makes it.
        run (Callable): One pass.
        passes (int): How often to run it.
        device (str): Where it runs. Defaults to ``'cpu'``.

    Returns:
        dict[str, float]: The means over the middle half of the passes, which sum to the mean of their whole times.
    """
    watches = []
    for _ in range(passes):
        watch = Stopwatch(device)
        with watch.watching(network):
            watch.timed(run, REST)()
        watches.append(watch.times)
    totals = [sum(times.values()) for times in watches]
    low, high = np.percentile(totals, (25, 75), method='nearest')
    middle = [times for times, total in zip(watches, totals, strict=True) if low <= total <= high]
    return {
        part: float(np.mean([times[part] for times in middle]))
        for part in PARTS
        if any(part in times for times in middle)
    }
