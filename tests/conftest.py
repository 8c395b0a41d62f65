import fcntl
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from unittest import mock

import pytest
from helpers.preloaded import run_script
from mmengine.registry import DefaultScope

ROOT = Path(__file__).parents[1]


def pytest_collection_modifyitems(items):
    """Begin with the files that fork this process, since a fork cannot train once its parent has; then run tools.

    Files that run tools take longest: if they came last, one worker would wait for the other.
    """
    items.sort(
        key=lambda item: (not hasattr(item.module, 'fork'), 'fresh_processes' not in getattr(item, 'fixturenames', ()))
    )


@pytest.fixture(autouse=True)
def no_default_scope():
    """A Runner in a test's own process leaves its config's scope behind, in which later tests would look types up."""
    yield
    DefaultScope._instance_dict.clear()


# Variables of the caller's shell or CI service that would change data, output or the number of processes.
IGNORED_VARIABLES = (
    'BLUE_MARBLE_FOLD', 'FORCE_COLOR', 'CLICOLOR_FORCE', 'TTY_COMPATIBLE', 'TTY_INTERACTIVE', 'PYTHONWARNINGS',
    'RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT',
)  # fmt: skip


@pytest.fixture(autouse=True, scope='session')
def plain_environment():
    with mock.patch.dict(os.environ):
        for name in IGNORED_VARIABLES:
            os.environ.pop(name, None)
        yield


@pytest.fixture
def full_disk(monkeypatch):
    """Files may not grow beyond 4 kB, which writing reports as a full disk does."""
    monkeypatch.setattr(sys, 'dont_write_bytecode', True)  # imports would leave truncated .pyc files
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


# One thread: the OpenMP runtimes of torch and scikit-learn spin against each other on a busy machine. The checkout
# comes first on the path, so that no other installed version is tested.
ENVIRONMENT = dict(
    PYTHONPATH=os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH')))),
    OMP_NUM_THREADS='1', COLUMNS='120', PYTHONIOENCODING='utf-8',
)  # fmt: skip


@pytest.fixture(scope='session')
def fresh_processes(plain_environment):
    """A context of multiprocessing whose processes are forked from one that has imported the libraries.

    Importing them takes six seconds.
    """
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['helpers.preloaded'])
    path = os.pathsep.join((str(ROOT / 'tests'), ENVIRONMENT['PYTHONPATH']))
    with mock.patch.dict(os.environ, ENVIRONMENT, PYTHONPATH=path):
        ensure_running()
    return context


@pytest.fixture(scope='session')
def run_tool(fresh_processes, tmp_path_factory):
    """``run_tool('dir/tool.py', *args)`` runs a script of tools/ as a user would; its output is captured as text."""
    files = [tmp_path_factory.mktemp('tools') / name for name in ('stdout', 'stderr')]

    def run(tool, *args):
        argv = [str(ROOT / 'tools' / tool), *map(str, args)]
        arguments = argv, Path.cwd(), dict(os.environ, **ENVIRONMENT), *files
        process = fresh_processes.Process(target=run_script, args=arguments)
        process.start()
        process.join()
        return subprocess.CompletedProcess(argv, process.exitcode, *(path.read_text('utf-8') for path in files))

    return run


@pytest.fixture(scope='session')
def blue_marble(run_tool, tmp_path_factory):
    """The Blue Marble data set, converted once per test run; read only."""
    shared = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        shared = shared.parent
    with (shared / 'blue_marble.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / 'blue_marble').exists():
            done = run_tool('dataset_converters/blue_marble.py', shared / 'blue_marble')
            assert done.returncode == 0, done.stderr
    return shared / 'blue_marble'


@pytest.fixture(scope='session')
def few_tiles(blue_marble, tmp_path_factory):
    """The tiles of two rows of the Earth, which have all classes in every fold; 5 of them are held out by fold 2."""
    out = tmp_path_factory.mktemp('few') / 'blue_marble'
    for path in blue_marble.rglob('r[23]_*.png'):
        link = out / path.relative_to(blue_marble)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return out
