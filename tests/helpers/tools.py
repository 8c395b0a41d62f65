"""Scripts of tools/ in the process of a test, which is faster and lets their errors through."""

import importlib.util
import sys
from pathlib import Path
from unittest import mock

TOOLS = Path(__file__).parents[2] / 'tools'
# Tools of the repository that are not installed: they write its pages, or serve a figure or a number there.
OURS_ALONE = {
    'blue_marble_color_baseline', 'earth', 'model_zoo', 'performance_report', 'scene_benchmark', 'study_answers',
}  # fmt: skip


def load_tool(tool):
    """Import a script of tools/ as a module."""
    path = TOOLS / tool
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where dataclasses look their module up
    with mock.patch.object(sys, 'path', [str(path.parent), *sys.path]):  # a script imports from its folder
        spec.loader.exec_module(module)
    return module


def call_tool(monkeypatch, tool, *args):
    """Run ``main`` of a script of tools/."""
    monkeypatch.setattr(sys, 'argv', [str(tool), *map(str, args)])
    return load_tool(tool).main()
