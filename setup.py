"""Copies configs/, tools/ and model-index.yml into a built package; its metadata is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
# They write this repository's pages, or serve a figure or a number there.
OURS_ALONE = (
    'blue_marble_color_baseline.*', 'earth.*', 'model_zoo.*', 'performance_report.*', 'scene_benchmark.*',
    'study_answers.*',
)  # fmt: skip


class BuildWithConfigs(build_py):
    """Adds ``mmvittm/.mim``, where ``mim`` and :func:`mmvittm.configs_dir` look."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        mim = Path(self.build_lib, 'mmvittm', '.mim')
        shutil.rmtree(mim, ignore_errors=True)  # build/ may be left from a version with other configs
        for folder, left_out in (('configs', ()), ('tools', OURS_ALONE)):
            ignore = shutil.ignore_patterns('__pycache__', *left_out)
            shutil.copytree(ROOT / folder, mim / folder, dirs_exist_ok=True, ignore=ignore)
        shutil.copy(ROOT / 'model-index.yml', mim)


setup(cmdclass={'build_py': BuildWithConfigs})
