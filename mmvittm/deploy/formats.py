"""The formats that models are exported to; a new one is a new row."""

from pathlib import Path

from ..errors import UserError
from .base import Format
from .onnx_format import OnnxFormat
from .openvino_format import OpenVINOFormat

FORMATS: dict[str, Format] = {format.name: format for format in (OnnxFormat(), OpenVINOFormat())}


def format_of(path: Path) -> Format:
    """The format of an exported file, by its suffix.

    Raises:
        UserError: If no format has that suffix.
    """
    for format in FORMATS.values():
        if path.suffix == format.suffix:
            return format
    suffixes = ', '.join(format.suffix for format in FORMATS.values())
    raise UserError(f'{path} is no exported model: its name must end in one of {suffixes}')
