"""Code in a checkpoint runs in no tool, by whichever option it is loaded, except with --allow-pickle."""

import pickle
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from helpers.survival import config, fork, make_data, wait
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from mmvittm.errors import UserError
from mmvittm.weights import load_checkpoint_file, use_safe_loading

ROOT = Path(__file__).parents[1]


class Malicious:
    """Creates a file when unpickled, and becomes a dict of weights."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return eval, (f'open({str(self.trace)!r}, "w").close() or {{"state_dict": {{}}, "meta": {{}}}}',)


@pytest.fixture
def attack(tmp_path):
    """A config, a malicious checkpoint for it, and the file that its code creates."""
    make_data(tmp_path / 'data')
    cfg = config('segmentation', tmp_path / 'data', tmp_path / 'run', 3)
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.test_dataloader, cfg.test_evaluator, cfg.test_cfg = cfg.val_dataloader, cfg.val_evaluator, dict()
    cfg.dump(tmp_path / 'config.py')
    trace = tmp_path / 'ran'
    torch.save(Malicious(trace), tmp_path / 'malicious.pth')
    return tmp_path / 'config.py', tmp_path / 'malicious.pth', trace


def run(folder, tool, *args):
    """Run a tool in a fork: its exit status and output."""

    def work():
        sys.argv = [tool, *map(str, args)]
        sys.path.insert(0, str((ROOT / 'tools' / tool).parent))
        runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')

    log = folder / 'log'
    return wait(fork(work, log)), log.read_text()


ENTRIES = {
    'resume': ('train.py', '{config}', '--resume', '{checkpoint}'),
    'load_from': ('train.py', '{config}', '--cfg-options', 'load_from={checkpoint}'),
    'init_cfg': (
        'train.py',
        '{config}',
        '--cfg-options',
        'model.backbone.init_cfg.type=Pretrained',
        'model.backbone.init_cfg.checkpoint={checkpoint}',
    ),
    'test': ('test.py', '{config}', '{checkpoint}'),
    'speed': ('fps_benchmark.py', '{config}', '--checkpoint', '{checkpoint}'),
    'images': ('image_demo.py', '{folder}/data/images/00.png', '{config}', '{checkpoint}'),
    'export': (
        'deployment/export.py',
        '{config}',
        '{checkpoint}',
        '--format',
        'onnx',
        '--shape',
        '32',
        '--out',
        '{folder}/out',
    ),
}


def fill(entry, attack):
    path, checkpoint, _ = attack
    return [word.format(config=path, checkpoint=checkpoint, folder=path.parent) for word in ENTRIES[entry]]


@pytest.mark.parametrize('entry', ENTRIES)
def test_code_is_refused(attack, entry):
    if entry == 'export':
        pytest.importorskip('openvino')
    path, checkpoint, trace = attack
    status, log = run(path.parent, *fill(entry, attack))
    assert status == 1, log
    assert f'checkpoint {checkpoint} is not a plain weights file' in log
    assert not trace.exists(), 'the code ran'


def test_allow_pickle(attack):
    path, _, trace = attack
    run(path.parent, *fill('load_from', attack), '--allow-pickle')
    assert trace.exists()


@pytest.fixture
def own_loaders():
    """Restores mmengine's loaders after the test."""
    before = dict(CheckpointLoader._schemes)
    yield
    CheckpointLoader._schemes = before


def test_downloads_are_not_unpickled(own_loaders, tmp_path, monkeypatch):
    torch.save(Malicious(tmp_path / 'ran'), tmp_path / 'malicious.pth')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'cache'))
    monkeypatch.setattr(
        torch.hub, 'download_url_to_file', lambda url, path: Path(path).write_bytes((tmp_path / url[-13:]).read_bytes())
    )
    use_safe_loading()
    with pytest.raises(UserError, match='is not a plain weights file'):
        CheckpointLoader.load_checkpoint('https://example.org/malicious.pth')
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('scheme', ['open-mmlab', 'torchvision', 'modelzoo', 'mmcls', 'pavi', 's3'])
@pytest.mark.parametrize('allow_pickle', [False, True])
def test_other_places_are_refused(own_loaders, scheme, allow_pickle):
    use_safe_loading(allow_pickle)
    with pytest.raises(UserError, match=f'{scheme}://x/y was not loaded.*download it and pass its path'):
        CheckpointLoader.load_checkpoint(f'{scheme}://x/y')


def test_config_in_a_checkpoint_is_not_run(own_loaders, tmp_path):
    """mmengine's Runner.resume runs ``meta['config']``, a string, which any reader of weights lets through."""
    weights = dict(weight=torch.zeros(1))
    torch.save(dict(state_dict=weights, meta=dict(config='raise SystemExit', epoch=0)), tmp_path / 'a.pth')
    use_safe_loading()
    assert CheckpointLoader.load_checkpoint(str(tmp_path / 'a.pth'))['meta'] == dict(epoch=0)


def test_plain_pickle_is_refused(tmp_path):
    (tmp_path / 'a.pth').write_bytes(pickle.dumps(Malicious(tmp_path / 'ran')))
    with pytest.raises(UserError):
        load_checkpoint_file(tmp_path / 'a.pth')
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('core', ['core', '_core'])
def test_logs_of_either_numpy_are_read(tmp_path, core):
    """numpy 2 renamed ``numpy.core`` to ``numpy._core``, and pickles hold the name."""
    path = tmp_path / 'a.pth'
    torch.save(dict(log=HistoryBuffer([0.5], [1])), path, _use_new_zipfile_serialization=False)
    written = path.read_bytes()
    path.write_bytes(re.sub(rb'numpy\._?core\.', f'numpy.{core}.'.encode(), written))
    assert load_checkpoint_file(path)['log'].mean() == 0.5
