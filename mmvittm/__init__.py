"""ViTTM (Vision Token Turing Machines) for MMSegmentation and MMPretrain.

``import mmvittm`` registers ``type='mmvittm.…'`` for the configs of all OpenMMLab projects. ``from mmvittm import
ViTTM`` also makes the names of the model index known to mmpretrain and to the inferencers.
"""

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import install_command
from .version import __version__

_missing = [name for name in ('mmengine', 'mmcv', 'mmpretrain', 'mmseg') if find_spec(name) is None]
if _missing:
    raise ImportError(
        f'mmvittm needs {", ".join(_missing)}: run `{install_command("onedl")}` (the tested packages) '
        f'or `{install_command("openmmlab")}` (the upstream packages), not both.'
    )

# mmcv-lite says so at every start; only detection needs mmcv's operators
warnings.filterwarnings('ignore', message='Fail to import ``MultiScaleDeformableAttention``')

from . import registry  # noqa: E402

if TYPE_CHECKING:
    from .models import ViTTM

__all__ = ['ViTTM', '__version__', 'config_file', 'configs_dir', 'registry']


def __getattr__(name: str) -> type:
    """Import the backbone when it is asked for, since mmpretrain takes seconds to import."""
    if name != 'ViTTM':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from .models import ViTTM

    return ViTTM


def configs_dir() -> Path:
    """Return the folder of this project's configs, in an installed package or a checkout."""
    package = Path(__file__).parent
    installed = package / '.mim' / 'configs'
    return installed if installed.is_dir() else package.parent / 'configs'


def config_file(name: str) -> str:
    """Return the path of one of this project's configs, to build on it from anywhere.

    mmengine allows no import statements before ``_base_``, so a config says
    ``_base_ = __import__('mmvittm').config_file('vittm_upernet_ade20k.py')``.
    """
    return str(configs_dir() / name)
