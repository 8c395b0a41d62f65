import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from .base import METADATA_KEY, Format, Session, unreadable


class OnnxSession(Session):
    """A network in onnxruntime, on the CPU."""

    def __init__(self, session) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self.metadata = json.loads(session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, '{}'))

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        return self._session.run(None, {self._input: images})


class OnnxFormat(Format):
    """ONNX, one file, run by onnxruntime."""

    name = 'onnx'
    suffix = '.onnx'
    packages = ('onnx', 'onnxscript', 'onnxruntime')
    # onnxruntime has no bfloat16 kernels for the CPU
    dtypes = ('fp32',)
    instead = 'use the format openvino'

    def _write(self, program, path: Path, metadata: str, calibration: Iterable[np.ndarray] | None) -> None:
        exported = torch.onnx.export(program, dynamo=True, verbose=False)
        exported.model.metadata_props[METADATA_KEY] = metadata
        exported.save(path, external_data=False)

    def _read(self, path: Path, dtype: str | None, threads: int | None) -> OnnxSession:
        runtime = self.module('onnxruntime')
        options = runtime.SessionOptions()
        if threads:
            options.intra_op_num_threads = threads
        try:
            return OnnxSession(runtime.InferenceSession(path, options, providers=['CPUExecutionProvider']))
        except Exception as error:  # onnxruntime's exceptions have no common base but this
            raise unreadable(path, self.name, error) from error
