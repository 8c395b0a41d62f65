"""The file formats. A new one is a subclass of :class:`Format`, listed in :data:`FORMATS`."""

import json
import warnings
from pathlib import Path

import torch

from ..errors import UserError
from .base import METADATA_KEY, Format, Session


class OnnxFormat(Format):
    """ONNX, run by ONNX Runtime."""

    name = 'onnx'
    suffix = '.onnx'
    packages = ('onnx', 'onnxscript', 'onnxruntime')
    dtypes = ('fp32',)  # ONNX Runtime has no bfloat16 kernels for the CPU
    instead = 'use the format openvino'

    def _write(self, program, output_names, path: Path, metadata: str, calibration) -> None:
        exported = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=('images',), output_names=output_names
        )
        graph = exported.model.graph
        for value in (*graph.inputs, *graph.outputs):
            value.shape[0] = 'batch'  # torch calls it s34
        exported.model.metadata_props[METADATA_KEY] = metadata
        exported.save(path, external_data=False)

    def _read(self, path: Path, dtype: str | None, threads: int | None) -> Session:
        runtime = self.module('onnxruntime')
        options = runtime.SessionOptions()
        if threads:
            options.intra_op_num_threads = threads
        session = runtime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
        name = session.get_inputs()[0].name
        metadata = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, '{}')
        return Session(lambda images: session.run(None, {name: images}), json.loads(metadata))


class OpenVINOFormat(Format):
    """OpenVINO's IR: an ``.xml`` file and a ``.bin`` file with fp32 or int8 weights. bf16 is chosen on loading."""

    #: OpenVINO's precision for each dtype. Without one it uses bf16 on every CPU that supports it.
    PRECISIONS = dict(fp32='f32', bf16='bf16', int8='f32')

    name = 'openvino'
    suffix = '.xml'
    packages = ('openvino',)
    dtypes = tuple(PRECISIONS)
    instead = 'choose one of these'

    def files(self, path: Path) -> tuple[Path, ...]:
        return path, path.with_suffix('.bin')

    def _write(self, program, output_names, path: Path, metadata: str, calibration) -> None:
        openvino = self.module('openvino')
        size = program.example_inputs[0][0].shape[1:]  # which OpenVINO would leave open
        model = openvino.convert_model(program, input=[openvino.PartialShape([-1, *size])])
        if calibration is not None:
            nncf = self.module('nncf')
            model = nncf.quantize(
                model,
                nncf.Dataset(calibration),
                model_type=nncf.ModelType.TRANSFORMER,
                # NNCF mistakes the small constant in linear attention's divisor for a bias and fails on its shape
                advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=True),
            )
        model.input(0).get_tensor().set_names({'images'})
        for output, name in zip(model.outputs, output_names or (), strict=False):
            output.get_tensor().set_names({name})
        model.set_rt_info(metadata, [METADATA_KEY])
        openvino.save_model(model, path, compress_to_fp16=False)

    def _read(self, path: Path, dtype: str | None, threads: int | None) -> Session:
        openvino = self.module('openvino')
        core = openvino.Core()
        model = core.read_model(path)
        metadata = json.loads(model.get_rt_info([METADATA_KEY]).astype(str)) if model.has_rt_info(METADATA_KEY) else {}
        precision = self.PRECISIONS[dtype or metadata.get('dtype', 'fp32')]
        config = dict(INFERENCE_PRECISION_HINT=precision, PERFORMANCE_HINT='LATENCY')
        if threads:
            config['INFERENCE_NUM_THREADS'] = threads
        compiled = core.compile_model(model, 'CPU', config)
        if precision == 'bf16' and compiled.get_property('INFERENCE_PRECISION_HINT') != openvino.Type.bf16:
            warnings.warn('this CPU has no bf16: OpenVINO computes in fp32 instead', stacklevel=2)
        return Session(lambda images: list(compiled(images).values()), metadata)


FORMATS: dict[str, Format] = {format.name: format for format in (OnnxFormat(), OpenVINOFormat())}


def format_of(path: Path) -> Format:
    """Return the format of an exported file, by its suffix.

    Raises:
        UserError: If no format has this suffix.
    """
    for format in FORMATS.values():
        if path.suffix == format.suffix:
            return format
    suffixes = ', '.join(format.suffix for format in FORMATS.values())
    raise UserError(f'{path} is not an exported model: its name must end in one of {suffixes}')
