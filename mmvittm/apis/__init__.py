"""Functions that the command-line tools share."""

import io
from contextlib import redirect_stdout

with redirect_stdout(io.StringIO()):  # OneDL's packages print "Could not import OneDL" when they are imported
    import mmpretrain.datasets  # noqa: F401
    import mmseg.datasets  # noqa: F401

from .config import build_model, input_size, load_config
from .data import check_data

__all__ = ['build_model', 'check_data', 'input_size', 'load_config']
