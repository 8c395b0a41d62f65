"""ViTTM (Vision Token Turing Machines) for MMSegmentation and MMPretrain.

``import mmvittm`` makes ``type='mmvittm.…'`` resolve in the config of any OpenMMLab project.
"""

from importlib.util import find_spec
from pathlib import Path

from .version import __version__

_missing = [name for name in ('mmengine', 'mmcv', 'mmpretrain', 'mmseg') if find_spec(name) is None]
if _missing:
    raise ImportError(
        f'mmvittm needs {", ".join(_missing)}: run `pip install "mmvittm[onedl]"` (the tested packages) '
        'or `pip install "mmvittm[openmmlab]"` (the upstream ones), not both.'
    )

from . import registry  # noqa: E402

__all__ = ['__version__', 'configs_dir', 'registry']


def configs_dir() -> Path:
    """The folder of this package's configs, in an installed package as in a checkout, for ``_base_`` and tools."""
    package = Path(__file__).parent
    installed = package / '.mim' / 'configs'
    return installed if installed.is_dir() else package.parent / 'configs'
