"""Interface of the file formats."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
from torch import Tensor, nn

from ..errors import UserError, install_command
from .program import export_program

#: Key of the metadata in an exported file.
METADATA_KEY = 'mmvittm'


@dataclass(frozen=True)
class Session:
    """An exported network, loaded."""

    run: Callable[[np.ndarray], list[np.ndarray]]
    metadata: dict  #: What the file says about itself, empty for a file of another origin.

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for normalised images ``(B, 3, H, W)``, float32."""
        return self.run(images)


class Format(ABC):
    """A file format and the runtime that runs it on the CPU."""

    name: str  #: Name on the command line.
    suffix: str  #: Suffix of the files.
    packages: tuple[str, ...]  #: Modules to import, all in the extra ``[deploy]``.
    dtypes: tuple[str, ...]  #: Data types that the runtime computes in.
    instead: str  #: Advice for other data types.

    def export(
        self,
        network: nn.Module,
        images: Tensor,
        path: Path,
        dtype: str = 'fp32',
        metadata: dict | None = None,
        calibration: Iterable[np.ndarray] | None = None,
    ) -> None:
        """Write ``network`` to ``path``, for the size of ``images`` and any batch size.

        Args:
            network (nn.Module): Takes images and returns one tensor or several; the input is called ``images``, the
                outputs by its attribute ``output_names`` if it has one.
            images (Tensor): An example, ``(B, 3, H, W)``.
            path (Path): The file. It is not written atomically; the other :meth:`files` are written beside it.
            dtype (str): One of :attr:`dtypes`.
            metadata (dict, optional): Stored in the file as JSON, with ``dtype``.
            calibration (Iterable[np.ndarray], optional): Batches ``(B, 3, H, W)`` that set the ranges of int8.

        Raises:
            UserError: If the format does not support the dtype, a package is missing, or the network does not take
                images of this size.
        """
        self.check(dtype)
        if (dtype == 'int8') != (calibration is not None):
            raise UserError('int8, and no other dtype, needs images to calibrate on')
        text = json.dumps({**(metadata or {}), 'dtype': dtype})
        names = getattr(network, 'output_names', None)
        self._write(export_program(network, images), names, path, text, calibration)

    def load(self, path: Path, dtype: str | None = None, threads: int | None = None) -> Session:
        """Load an exported file.

        Args:
            path (Path): The file.
            dtype (str, optional): Data type to compute in. Defaults to that of the export.
            threads (int, optional): Number of CPU threads. Defaults to the runtime's choice.

        Raises:
            UserError: If the file is missing or in another format, the format or the file does not support the dtype,
                or a package is missing.
        """
        self.check(dtype or 'fp32')
        if not path.is_file():
            raise UserError(f'exported model not found: {path}')
        try:
            session = self._read(path, dtype, threads)
        except Exception as error:  # the runtimes' exceptions have no other base in common
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f'{path} is not a model in the format {self.name}: {reason[-1]}') from error
        stored = session.metadata.get('dtype') if isinstance(session.metadata, dict) else None
        if dtype and stored and (dtype == 'int8') != (stored == 'int8'):
            raise UserError(f'{path} was exported for {stored} and cannot compute in {dtype}: export it again')
        return session

    def check(self, dtype: str = 'fp32') -> None:
        """Raise a :class:`UserError` if the format does not support ``dtype`` or a package is missing."""
        if dtype not in self.dtypes:
            raise UserError(f'{self.name} does not run {dtype}, only {", ".join(self.dtypes)}: {self.instead}')
        for package in self.packages:
            self.module(package)

    def module(self, name: str) -> ModuleType:
        """Import an optional package, or raise a :class:`UserError` that says how to install it."""
        try:
            return import_module(name)
        except ImportError as error:
            raise UserError(
                f'the format {self.name} needs the package {name}, which is not installed: '
                f'`{install_command("deploy")}`'
            ) from error

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return all files of the exported model ``path``, itself first."""
        return (path,)

    @abstractmethod
    def _write(self, program, output_names, path: Path, metadata: str, calibration) -> None: ...

    @abstractmethod
    def _read(self, path: Path, dtype: str | None, threads: int | None) -> Session: ...
