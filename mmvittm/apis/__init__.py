"""Functions that the command-line tools share."""

from .config import build_model, input_size, load_config
from .data import check_data

__all__ = ['build_model', 'check_data', 'input_size', 'load_config']
