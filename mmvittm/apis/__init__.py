"""Functions shared by the command-line tools, for your own programs too."""

from .cli import run_tool
from .config import build_model, input_size, load_config
from .data import check_data

__all__ = ['build_model', 'check_data', 'input_size', 'load_config', 'run_tool']
