"""ViTTM (Vision Token Turing Machines) for MMSegmentation and MMPretrain.

``import mmvittm`` registers ``type='mmvittm.…'`` for the configs of all OpenMMLab projects.
"""

from importlib.util import find_spec
from pathlib import Path

from .version import __version__

_missing = [name for name in ('mmengine', 'mmcv', 'mmpretrain', 'mmseg') if find_spec(name) is None]
if _missing:
    raise ImportError(
        f'mmvittm needs {", ".join(_missing)}: run `pip install "mmvittm[onedl]"` (the tested packages) '
        'or `pip install "mmvittm[openmmlab]"` (the upstream packages), not both.'
    )

from . import registry  # noqa: E402

__all__ = ['__version__', 'configs_dir', 'registry']


def configs_dir() -> Path:
    """Return the folder of this project's configs, in an installed package or a checkout."""
    package = Path(__file__).parent
    installed = package / '.mim' / 'configs'
    return installed if installed.is_dir() else package.parent / 'configs'
