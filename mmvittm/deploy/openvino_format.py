import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .base import METADATA_KEY, Format, Session, unreadable

#: Our names for what OpenVINO computes in. Without a word from us it takes bf16 wherever the CPU has it.
_PRECISIONS = dict(fp32='f32', bf16='bf16', int8='f32')


class OpenVINOSession(Session):
    """A network in OpenVINO, on the CPU."""

    def __init__(self, compiled, metadata: dict) -> None:
        self._compiled = compiled
        self.metadata = metadata

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        return list(self._compiled(images).values())


class OpenVINOFormat(Format):
    """OpenVINO's IR, an ``.xml`` and a ``.bin`` file with weights in fp32; the dtype is chosen when it is loaded."""

    name = 'openvino'
    suffix = '.xml'
    packages = ('openvino',)
    dtypes = tuple(_PRECISIONS)
    instead = 'choose one of these'

    def files(self, path: Path) -> tuple[Path, ...]:
        return path, path.with_suffix('.bin')

    def _write(self, program, path: Path, metadata: str, calibration: Iterable[np.ndarray] | None) -> None:
        openvino = self.module('openvino')
        model = openvino.convert_model(program)
        if calibration is not None:
            nncf = self.module('nncf')
            model = nncf.quantize(
                model,
                nncf.Dataset(calibration),
                model_type=nncf.ModelType.TRANSFORMER,
                # it takes the small constant under linear attention's quotient for a bias, and fails on its shape
                advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=True),
            )
        model.set_rt_info(metadata, [METADATA_KEY])
        openvino.save_model(model, path, compress_to_fp16=False)

    def _read(self, path: Path, dtype: str | None, threads: int | None) -> OpenVINOSession:
        openvino = self.module('openvino')
        core = openvino.Core()
        try:
            model = core.read_model(path)
        except RuntimeError as error:
            raise unreadable(path, self.name, error) from error
        metadata = json.loads(model.get_rt_info([METADATA_KEY]).astype(str)) if model.has_rt_info(METADATA_KEY) else {}
        config = dict(
            INFERENCE_PRECISION_HINT=_PRECISIONS[dtype or metadata.get('dtype', 'fp32')], PERFORMANCE_HINT='LATENCY'
        )
        if threads:
            config['INFERENCE_NUM_THREADS'] = threads
        return OpenVINOSession(core.compile_model(model, 'CPU', config), metadata)
