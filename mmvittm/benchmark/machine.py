"""Telling what a time was measured on."""

import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path

import torch

PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmseg', 'mmpretrain', 'mmvittm')


@dataclass(frozen=True)
class Machine:
    """What a time depends on besides the network."""

    device: str
    cpu: str
    cpu_isa: str
    cores: int | None
    gpu: str | None
    threads: int
    versions: dict[str, str]
    date: str

    @classmethod
    def current(cls, device: str, packages: Iterable[str] = ()) -> 'Machine':
        """Describe this process; ``device`` is ``'cpu'`` or ``'cuda'``, ``packages`` are more to give versions of."""
        versions = {name: import_module(name).__version__.split('-')[0] for name in (*PACKAGES, *packages)}
        return cls(
            device=device,
            cpu=cpu_name(),
            cpu_isa=torch.backends.cpu.get_cpu_capability(),
            cores=os.cpu_count(),
            gpu=torch.cuda.get_device_name() if device == 'cuda' else None,
            threads=torch.get_num_threads(),
            versions=versions | {'python': platform.python_version()},
            date=datetime.now(timezone.utc).strftime('%Y-%m-%d'),
        )

    def as_dict(self) -> dict:
        return asdict(self)


def cpu_name(cpuinfo: Path = Path('/proc/cpuinfo')) -> str:
    """The processor's name as Linux knows it, elsewhere what :mod:`platform` says."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()
