"""Record of the machine and the versions that a time was measured with."""

import os
import platform
import re
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path

import torch

PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmseg', 'mmpretrain', 'mmvittm')


def describe_machine(device: str, packages: Iterable[str] = ()) -> dict:
    """Describe processor, threads and versions; ``packages`` are added to :data:`PACKAGES`."""
    versions = {name: import_module(name).__version__.split('-')[0] for name in (*PACKAGES, *packages)}
    return dict(
        device=device,
        cpu=cpu_name(),
        cpu_isa=torch.backends.cpu.get_cpu_capability(),
        cores=os.cpu_count(),
        gpu=torch.cuda.get_device_name() if device == 'cuda' else None,
        threads=torch.get_num_threads(),
        versions=versions | {'python': platform.python_version()},
        date=datetime.now(timezone.utc).strftime('%Y-%m-%d'),
    )


def hardware(machine: dict) -> str:
    """Return processor and vector instructions of :func:`describe_machine`: clouds have several CPUs of one name."""
    return f'{machine["cpu"]}, {machine["cpu_isa"]}'


def hardware_slug(machine: dict) -> str:
    """Return :func:`hardware` as a part of a file name."""
    return re.sub(r'[^a-z0-9]+', '-', hardware(machine).lower())


def cpu_name(cpuinfo: Path = Path('/proc/cpuinfo')) -> str:
    """Processor name from Linux, elsewhere from :mod:`platform`."""
    found = re.search(r'model name\s*: (.+)', cpuinfo.read_text()) if cpuinfo.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()
