"""Users' mistakes with train.py and test.py: each ends with one sentence and exit status 1."""

import argparse
import errno
import re
import resource
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from fuzz import Case, judge
from fuzz import tool as run_script
from helpers.data import save, write_segmentation_set
from helpers.tools import load_tool
from mmengine.config import Config

import mmvittm
from mmvittm.apis import cli
from mmvittm.apis.config import build_model, load_config
from mmvittm.engine import ResumableIterLoop, StopOnSignalHook
from mmvittm.errors import UserError
from mmvittm.weights.loading import load_checkpoint_file

ROOT = Path(__file__).parents[1]
DEMO = str(mmvittm.configs_dir() / 'vittm/vittm-t_16-32_upernet_1xb8-demo_blue-marble-256x256.py')


@pytest.fixture
def tool(monkeypatch, tmp_path):
    """Run a tool in this process, as ``tool('train.py', …)``, and return its error message."""

    def run(name, *args):
        words = [name, *map(str, args)]
        if '--work-dir' not in words:
            words[2:2] = ['--work-dir', str(tmp_path / 'work')]
        monkeypatch.setattr(sys, 'argv', words)
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(ROOT / 'tools' / name), run_name='__main__')
        assert isinstance(stopped.value.code, str), 'no sentence'
        return stopped.value.code

    return run


def in_folder(root, *more):
    """Options that read all splits from ``root``, without workers."""
    loaders = ('train_dataloader', 'val_dataloader', 'test_dataloader')
    options = [f'{loader}.dataset.data_root={root}' for loader in loaders]
    options += [f'{loader}.{key}' for loader in loaders for key in ('num_workers=0', 'persistent_workers=False')]
    return ['--cfg-options', *options, 'train_dataloader.batch_size=2', *more]


@pytest.fixture(scope='module')
def small_set(tmp_path_factory) -> Path:
    return write_segmentation_set(tmp_path_factory.mktemp('small') / 'set', (64, 64), num_labels=6)


@pytest.fixture
def damaged(small_set, tmp_path) -> Path:
    return Path(shutil.copytree(small_set, tmp_path / 'set'))


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> Path:
    """Save random weights of the demo's model."""
    path = tmp_path_factory.mktemp('checkpoint') / 'demo.pth'
    torch.save(dict(state_dict=build_model(load_config(DEMO)).state_dict()), path)
    return path


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (['model.backbone.arch=huge'], "unknown arch 'huge': choose one of tiny, small, base, large"),
        (['modle.backbone.arch=small'], "has no modle to override, did you mean 'model'?"),
        (['model.backbone.out_indexes=[0]'], "unexpected keyword argument 'out_indexes', did you mean 'out_indices'?"),
        (['model.backbone.type=mmvittm.ViTMM'], "unknown type 'mmvittm.ViTMM', did you mean 'mmvittm.ViTTM'?"),
        (
            ['val_evaluator.iou_metricss=[mDice]'],
            "val_evaluator (ClassIoUMetric): unexpected argument 'iou_metricss', did you mean 'iou_metrics'?",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else '',
)
def test_config_that_cannot_be_built(tool, small_set, options, sentence):
    error = tool('train.py', DEMO, *in_folder(small_set, *options))
    assert sentence in error
    assert error.startswith(f'error: config {DEMO}')


def test_heads_that_do_not_divide(tool, small_set, tmp_path):
    config = tmp_path / 'config.py'
    arch = 'dict(_delete_=True, embed_dims=192, num_layers=12, num_heads=5, feedforward_channels=768)'
    config.write_text(f'_base_ = {DEMO!r}\nmodel = dict(backbone=dict(arch={arch}))')
    assert 'num_heads=5 does not divide embed_dims=192' in tool('train.py', config, *in_folder(small_set))


def test_missing_config(tool):
    assert tool('train.py', 'configs/no_such.py') == 'error: config not found: configs/no_such.py'


def test_missing_data(run_tool, tmp_path):
    options = in_folder(tmp_path / 'nowhere')
    done = run_tool('train.py', DEMO, '--work-dir', tmp_path / 'work', *options)
    assert done.returncode == 1
    sentence = done.stderr.strip().splitlines()[-1]
    assert sentence.startswith(f'error: train_dataloader: data set folder not found: {tmp_path / "nowhere"}')
    assert 'python -m mmvittm data blue-marble' in sentence
    assert not (tmp_path / 'work').exists(), 'something was written'


def test_missing_ade20k(tool, tmp_path):
    entry = mmvittm.configs_dir() / 'vittm_upernet_ade20k.py'
    sentence = tool('train.py', entry, '--cfg-options', f'train_dataloader.dataset.data_root={tmp_path / "ade"}')
    assert str(tmp_path / 'ade') in sentence
    assert 'ADEChallengeData2016.zip' in sentence


def test_empty_folder(tool, damaged):
    for image in (damaged / 'images' / 'training').iterdir():
        image.unlink()
    assert f'{damaged / "images"} has no training tiles of fold 2' in tool('train.py', DEMO, *in_folder(damaged))


def test_half_converted_folder(tool, damaged):
    (damaged / 'annotations' / 'training' / '1.png').unlink()
    sentence = tool('train.py', DEMO, *in_folder(damaged))
    assert '1 of 2 images in' in sentence  # of fold 2's training tiles
    assert str(damaged / 'annotations' / 'training' / '1.png') in sentence


@pytest.mark.parametrize('workers', [0, 1])
def test_label_without_a_class(tool, damaged, workers):
    """Also in a worker process, whose traceback torch adds to the message."""
    wrong = damaged / 'annotations' / 'training' / '0.png'
    save(wrong, np.full((64, 64), 6))
    shutil.copy(wrong, wrong.with_name('1.png'))
    sentence = tool('train.py', DEMO, *in_folder(damaged, f'train_dataloader.num_workers={workers}'))
    assert sentence.startswith('error: ')
    assert sentence.count('\n') == 0
    assert str(wrong.parent) in sentence
    assert 'has label 6, outside 0 to 5' in sentence


def test_image_smaller_than_a_patch(tool, damaged, checkpoint):
    write_segmentation_set(damaged, (20, 64), num_labels=6)
    # our configs enlarge such images and pad them to whole patches
    as_it_is = ['model.data_preprocessor.test_cfg=None', 'test_dataloader.dataset.pipeline.1.scale=(64,20)']
    sentence = tool('test.py', DEMO, checkpoint, *in_folder(damaged, *as_it_is))
    assert 'an image of 20×64 pixels is smaller than a patch of 32×32' in sentence


class Malicious:
    def __reduce__(self):
        return open, ('pwned', 'w')


def write_malicious(path: Path, good: Path) -> None:
    torch.save(dict(state_dict={}, extra=Malicious()), path)


def write_malicious_getattr(path: Path, good: Path) -> None:
    """mmengine's logs need getattr, on HistoryBuffer only."""

    class Reach:
        def __reduce__(self):
            return getattr, (np.ndarray, 'tofile')

    torch.save(dict(state_dict={}, extra=Reach()), path)


def write_truncated(path: Path, good: Path) -> None:
    path.write_bytes(good.read_bytes()[:-5000])


def write_nan(path: Path, good: Path) -> None:
    state_dict = load_checkpoint_file(good)['state_dict']
    torch.save(dict(state_dict={key: value * torch.nan for key, value in state_dict.items()}), path)


def write_wider(path: Path, good: Path) -> None:
    state_dict = load_checkpoint_file(good)['state_dict']
    wider = {key: torch.cat([value, value], -1) if value.ndim else value for key, value in state_dict.items()}
    torch.save(dict(state_dict=wider), path)


def write_other_parts(path: Path, good: Path) -> None:
    state_dict = load_checkpoint_file(good)['state_dict']
    torch.save(dict(state_dict={key.replace('read_head', 'reader'): v for key, v in state_dict.items()}), path)


@pytest.mark.parametrize(
    ('write', 'sentence'),
    [
        (lambda path, good: None, 'checkpoint not found: '),
        (write_truncated, 'cannot be read, it is truncated or not a checkpoint'),
        (lambda path, good: path.touch(), 'cannot be read, it is truncated or not a checkpoint'),
        (write_nan, 'NaN or infinite: backbone.memory_embed.pos_embed'),
        (lambda path, good: path.write_text('weights'), 'is not a plain weights file'),
        (lambda path, good: torch.save([1], path), 'holds a list where a dict of weights is expected'),
        (write_malicious, 'is not a plain weights file'),
        (write_malicious_getattr, 'is not a plain weights file'),
        (write_wider, 'wrong shape: backbone.memory_embed.pos_embed (1, 256, 384) instead of (1, 256, 192)'),
        (
            write_other_parts,
            'missing: backbone.layers.0.read_head.q.weight (and 11 like it), backbone.layers.0.read_head.q.bias',
        ),
    ],
    ids=['missing', 'truncated', 'empty', 'nan', 'text', 'list', 'malicious', 'getattr', 'wider', 'other components'],
)
def test_bad_checkpoint(tool, small_set, checkpoint, tmp_path, monkeypatch, write, sentence):
    bad = tmp_path / 'bad.pth'
    write(bad, checkpoint)
    config_options = in_folder(small_set)
    monkeypatch.chdir(tmp_path)
    assert sentence in tool('test.py', DEMO, bad, *config_options)
    assert not (tmp_path / 'pwned').exists()


@pytest.fixture
def limited_memory():
    """Have 12 TB refused on every machine; CUDA alone reserves more addresses than the limit."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    if not torch.cuda.is_available():
        limit = 24 << 30 if limits[1] == resource.RLIM_INFINITY else min(24 << 30, limits[1])
        resource.setrlimit(resource.RLIMIT_AS, (limit, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['train.py', DEMO, '--resume', ''], 'error: an argument is empty: '),
        (['train.py', DEMO, '--resume='], 'error: an argument is empty: '),
        (['test.py', DEMO, ''], 'error: an argument is empty: '),
        (
            ['train.py', DEMO, '--launcher', 'pytorch'],
            'error: --launcher pytorch did not start this process (RANK, ',
        ),
        (['train.py', DEMO, '--launcher', 'slurm'], 'error: --launcher slurm did not start this process (SLURM_PROCID'),
        (
            ['train.py', DEMO, '--launcher', 'mpi'],
            'error: --launcher mpi did not start this process (OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_LOCAL_RANK, ',
        ),
        (['fps_benchmark.py', DEMO, '--threads', '1000000'], 'error: --threads must be at most 1024, not 1000000'),
        (['fps_benchmark.py', DEMO, '--shape', '1000000'], 'error: out of memory ('),
    ],
)
def test_bad_argument(monkeypatch, tmp_path, limited_memory, words, sentence):
    for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    result = judge(Case('', lambda folder: run_script(*words)), tmp_path)
    assert result.kind == 'sentence' and result.text.startswith(sentence)


@pytest.mark.parametrize('option', ['a', 'a=[1,', 'a=(1,2]'])
def test_malformed_cfg_options(tmp_path, option):
    result = judge(Case('', lambda folder: run_script('train.py', DEMO, '--cfg-options', option)), tmp_path)
    assert result.text.endswith(
        f'--cfg-options takes pairs such as key=value or "key=[1,2]", not {shlex.quote(option)}'
    )


@pytest.mark.parametrize('name', ['cuda:99', 'gpu'])
def test_device_that_cannot_be_used(name):
    with pytest.raises(argparse.ArgumentTypeError, match=f'^{name} cannot be used: '):
        cli.device(name)


@pytest.mark.parametrize(
    ('error', 'status'),
    [
        (KeyboardInterrupt(), 130),
        (MemoryError('16 TiB'), 'error: out of memory (16 TiB): choose smaller images, batches or models'),
        (RuntimeError('CUDA out of memory.'), 'error: out of memory (CUDA out of memory.): choose smaller images'),
        (OSError(errno.EDQUOT, 'Quota', 'a.pth'), 'error: a.pth cannot be written (Quota): free some space'),
        (OSError(errno.ENOSPC, 'Full'), 'error: a file cannot be written (Full): free some space'),
    ],
    ids=repr,
)
def test_status_of_a_tool(monkeypatch, error, status):
    monkeypatch.setattr(sys, 'argv', ['tool'])
    with pytest.raises(SystemExit) as stopped:
        cli.run_tool(mock.Mock(side_effect=error))
    assert str(stopped.value.code).startswith(str(status))


def test_a_defect_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tool'])
    with pytest.raises(RuntimeError, match='a defect'):
        cli.run_tool(mock.Mock(side_effect=RuntimeError('a defect')))


UNMET = {
    'signal': (lambda: StopOnSignalHook().before_train(SimpleNamespace(hooks=[])), 'StopOnSignalHook needs default_'),
    'loop': (lambda: ResumableIterLoop(mock.Mock(), dict(batch_sampler=1)), 'without batch_sampler'),
    'amp': (lambda: load_tool('train.py').use_amp(Config(dict(optim_wrapper=dict(type='X')))), '--amp needs .* has X'),
    'show': (lambda: load_tool('test.py').draw_predictions(Config(dict()), 'folder'), '--show-dir needs default_hooks'),
}


@pytest.mark.parametrize(('call', 'sentence'), UNMET.values(), ids=UNMET)
def test_needs_of_hooks_and_options(call, sentence):
    with pytest.raises(UserError, match=sentence):
        call()


def test_predictions_of_two_images_of_one_name(tool, small_set, checkpoint, tmp_path):
    for kind in ('images', 'annotations'):
        for name in ('a', 'b'):
            (tmp_path / 'set' / kind / name).mkdir(parents=True)
            shutil.copy(small_set / kind / 'validation' / '2.png', tmp_path / 'set' / kind / name / '2.png')
    sentence = tool('test.py', DEMO, checkpoint, '--out', tmp_path / 'out', *in_folder(tmp_path / 'set'))
    assert '2 images share names, such as ' in sentence and 'b/2.png' in sentence
    assert not list((tmp_path / 'out').iterdir())


def test_folder_that_is_a_file(tool, small_set, checkpoint, tmp_path):
    (tmp_path / 'out').touch()
    for option in ('--out', '--show-dir'):
        sentence = tool('test.py', DEMO, checkpoint, option, tmp_path / 'out', *in_folder(small_set))
        assert sentence.startswith(f'error: cannot write to {tmp_path / "out"}: ')


def test_resume_from_missing_checkpoint(tool, small_set, tmp_path):
    options = ['--resume', tmp_path / 'gone.pth', *in_folder(small_set)]
    assert f'checkpoint not found: {tmp_path / "gone.pth"}' in tool('train.py', DEMO, *options)


def test_checkpoint_without_head_is_a_warning(tool, run_tool, small_set, checkpoint, tmp_path):
    """As for fine-tuning with a new head."""
    other = tmp_path / 'pretrained.pth'
    state_dict = load_checkpoint_file(checkpoint)['state_dict']
    torch.save({key: value for key, value in state_dict.items() if key.startswith('backbone.')}, other)
    more = ['train_cfg.max_iters=1', f'load_from={other}', 'log_level=INFO']
    done = run_tool('train.py', DEMO, '--work-dir', tmp_path / 'work', *in_folder(small_set, *more))
    assert done.returncode == 0, done.stderr
    fits = r'the checkpoint fits only part of the model: \d+ of \d+ weights are loaded; not loaded, missing: neck\.'
    assert re.search(fits, done.stdout + done.stderr)
    assert 'missing keys in source state_dict' not in done.stdout, "mmengine's list of names"
