import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.registry import DefaultScope

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_default_scope():
    """A Runner in a test's own process leaves its config's scope behind, in which later tests would look types up."""
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture(scope='session')
def run_tool():
    """``run_tool('dir/tool.py', *args)`` runs a script of tools/ as a user would; its output is captured as text."""
    # One thread: the OpenMP runtimes of torch and scikit-learn spin against each other on a busy machine. The
    # checkout comes first on the path, so that no other installed version is tested.
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH'))))
    env = dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS='1', COLUMNS='120', PYTHONIOENCODING='utf-8')

    def run(tool, *args):
        command = [sys.executable, str(ROOT / 'tools' / tool), *map(str, args)]
        return subprocess.run(command, capture_output=True, encoding='utf-8', env=env)

    return run


@pytest.fixture(scope='session')
def blue_marble(run_tool, tmp_path_factory):
    """The Blue Marble data set, converted once per session; read only."""
    out = tmp_path_factory.mktemp('data') / 'blue_marble'
    done = run_tool('dataset_converters/blue_marble.py', out)
    assert done.returncode == 0, done.stderr
    return out
