"""What a format of exported models can do, whatever the format."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
from torch import Tensor, nn

from ..errors import UserError
from .program import export_program

#: Under this name a file holds its metadata, as JSON.
METADATA_KEY = 'mmvittm'


class Session(ABC):
    """An exported network, ready to run: ``session(images)`` with images ``(B, 3, H, W)``, float32 and normalised.

    Attributes:
        metadata (dict): What was stored with the network; empty for a file that this package did not write.
    """

    metadata: dict

    @abstractmethod
    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """The network's outputs for a batch of images."""


class Format(ABC):
    """One file format, with the runtime that runs it on the CPU.

    Attributes:
        name (str): What users call it.
        suffix (str): Of its files.
        packages (tuple[str, ...]): Modules it needs, all of the extra ``[deploy]``.
        dtypes (tuple[str, ...]): What its runtime computes in.
        instead (str): Advice for a dtype it does not offer.
    """

    name: str
    suffix: str
    packages: tuple[str, ...]
    dtypes: tuple[str, ...]
    instead: str

    def export(
        self,
        network: nn.Module,
        images: Tensor,
        path: Path,
        dtype: str = 'fp32',
        metadata: dict | None = None,
        calibration: Iterable[np.ndarray] | None = None,
    ) -> None:
        """Write ``network`` for images of the size of ``images`` and any batch size.

        Args:
            network (nn.Module): Takes images and gives one tensor or several, as
                :func:`mmvittm.apis.tasks.inference_network` makes it.
            images (Tensor): ``(B, 3, H, W)``, an example.
            path (Path): The file, which is not written atomically. Files of :meth:`files` appear beside it.
            dtype (str): One of :attr:`dtypes`. Defaults to ``'fp32'``.
            metadata (dict, optional): What JSON can hold; ``dtype`` is added to it.
            calibration (Iterable[np.ndarray], optional): Batches ``(B, 3, H, W)`` that an int8 network finds its
                ranges on.

        Raises:
            UserError: If the dtype is not one of the format's, a package is missing, or the network does not take
                images of that size.
        """
        self.check(dtype)
        if (dtype == 'int8') != (calibration is not None):
            raise UserError('int8 needs images to calibrate on, and only int8 does')
        program = export_program(network, images)
        self._write(program, path, json.dumps((metadata or {}) | dict(dtype=dtype)), calibration)

    def load(self, path: Path, dtype: str | None = None, threads: int | None = None) -> Session:
        """Read an exported file.

        Args:
            path (Path): The file.
            dtype (str, optional): What to compute in. Defaults to what the file was exported for.
            threads (int, optional): CPU threads. Defaults to the runtime's choice.

        Raises:
            UserError: If the file is missing or not of this format, the dtype is not one of the format's, or a package
                is missing.
        """
        self.check(dtype or 'fp32')
        if not path.is_file():
            raise UserError(f'exported model not found: {path}')
        return self._read(path, dtype, threads)

    def check(self, dtype: str = 'fp32') -> None:
        """Refuse a dtype that the format does not offer, and missing packages."""
        if dtype not in self.dtypes:
            raise UserError(f'{self.name} does not run {dtype}, but {", ".join(self.dtypes)}: {self.instead}')
        for package in self.packages:
            self.module(package)

    def module(self, name: str) -> ModuleType:
        """Import an optional package.

        Raises:
            UserError: If it is not installed.
        """
        try:
            return import_module(name)
        except ImportError as error:
            raise UserError(
                f'the format {self.name} needs the package {name}, which is not installed: '
                "`pip install 'mmvittm[deploy]'`"
            ) from error

    def files(self, path: Path) -> tuple[Path, ...]:
        """All files that make up the exported model ``path``."""
        return (path,)

    @abstractmethod
    def _write(self, program, path: Path, metadata: str, calibration: Iterable[np.ndarray] | None) -> None: ...

    @abstractmethod
    def _read(self, path: Path, dtype: str | None, threads: int | None) -> Session: ...


def unreadable(path: Path, format_name: str, error: Exception) -> UserError:
    """The error for a file that a runtime refuses."""
    reason = str(error).strip().splitlines()
    return UserError(f'{path} is not a model in the format {format_name}: {reason[-1] if reason else error}')
