"""By default, train.py and test.py show what runs, its progress and its result; the log file has everything."""

import io
import re
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from helpers.data import write_segmentation_set
from helpers.tiny import tiny_backbone
from mmengine.config import Config
from rich.console import Console

from mmvittm.engine.hooks import ProgressBarHook, progress_bar_hook

CONFIG = """
_base_ = [{base!r} + '/default_runtime.py', {base!r} + '/hooks.py']
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[128.0] * 3, std=[64.0] * 3, size=(32, 32)),
    backbone={backbone!r},
    decode_head=dict(type='FCNHead', in_channels=16, channels=8, num_convs=1, num_classes=2),
    test_cfg=dict(mode='whole'))
pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
dataset = dict(type='BaseSegDataset', data_root={data!r}, metainfo=dict(classes=('a', 'b')), img_suffix='.png',
               pipeline=pipeline)
train_dataloader = dict(
    batch_size=2, num_workers=2, persistent_workers=True, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(**dataset, data_prefix=dict(img_path='images/training', seg_map_path='annotations/training')))
val_dataloader = dict(
    batch_size=1, num_workers=1, persistent_workers=True, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**dataset, data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation')))
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type='IoUMetric')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
train_cfg = dict(type='mmvittm.ResumableIterLoop', max_iters=4, val_interval=4)
val_cfg, test_cfg = dict(type='mmvittm.CheckedValLoop'), dict(type='mmvittm.CheckedTestLoop')
default_hooks = dict(logger=dict(interval=2), checkpoint=dict(interval=4, by_epoch=False))
"""


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp('terminal')
    data = write_segmentation_set(folder / 'data', (32, 32), 2)
    text = CONFIG.format(base=str(ROOT / 'configs/_base_'), backbone=tiny_backbone(img_size=32), data=str(data))
    (folder / 'tiny.py').write_text(text)
    return folder / 'tiny.py'


@pytest.fixture(scope='module')
def trained(run_tool, config):
    done = run_tool('train.py', config, '--work-dir', config.parent / 'work')
    assert done.returncode == 0, done.stderr
    return done


def test_training_is_quiet(trained, config):
    assert trained.stderr == ''
    lines = trained.stdout.splitlines()
    assert lines[0] == 'EncoderDecoder of ViTTM, FCNHead: 0.0 M parameters'
    assert lines[1:3] == ['train: 2 images of BaseSegDataset', 'val: 2 images of BaseSegDataset']
    progress = [line for line in lines if re.fullmatch(r'training \d/4 loss \d\.\d+ .*\d:\d\d:\d\d left', line)]
    assert [line.split()[1] for line in progress] == ['2/4', '4/4']
    assert re.fullmatch(r'Trained 4 iterations: aAcc [\d.]+, mIoU [\d.]+, mAcc [\d.]+; checkpoints in .*', lines[-1])
    assert len(lines) == 8, trained.stdout


def test_no_data_loader_worker_is_left(trained, config):
    """Workers inherit the open log file."""

    def has_a_file_open(process):
        with suppress(OSError):  # of another user, or ended
            return any(file.readlink().is_relative_to(config.parent) for file in (process / 'fd').iterdir())

    assert not [process for process in Path('/proc').glob('[0-9]*') if has_a_file_open(process)]


def test_mixed_precision(run_tool, config):
    work_dir = config.parent / 'amp'
    done = run_tool('train.py', config, '--amp', '--work-dir', work_dir)
    assert done.returncode == 0, done.stderr
    kind = 'AmpOptimWrapper' if torch.cuda.is_available() else 'mmvittm.Bf16OptimWrapper'
    assert Config.fromfile(work_dir / config.name).optim_wrapper.type == kind


def test_the_file_has_the_whole_log(trained):
    (path,) = re.findall(r'^log: (.*)$', trained.stdout, re.MULTILINE)
    log = Path(path).read_text()
    for text in ('Runtime environment', 'Config:', 'Iter(train) [4/4]', 'per class results', 'For binary segmentation'):
        assert text in log, text


def test_testing_is_quiet(trained, run_tool, config):
    done = run_tool('test.py', config, config.parent / 'work/iter_4.pth', '--work-dir', config.parent / 'tested')
    assert done.returncode == 0 and done.stderr == ''
    assert 'testing 2/2' in done.stdout
    (tested,) = re.findall(r'^mIoU +([\d.]+)$', done.stdout, re.MULTILINE)
    assert f'mIoU {tested}' in trained.stdout.splitlines()[-1]
    assert len(done.stdout.splitlines()) < 12, done.stdout


def test_a_metric_that_is_no_number_is_passed_over():
    """As mmpretrain's ConfusionMatrix returns."""
    hook = ProgressBarHook()
    hook._start('training', 10, 3)
    hook.after_val_epoch(SimpleNamespace(iter=3), dict(matrix=torch.eye(2), accuracy=50.0, mean=1.0))
    assert hook.progress.tasks[0].fields['metric'] == 'accuracy 50.00'


@pytest.mark.parametrize('is_first', [True, False])
def test_only_the_first_process_writes(monkeypatch, capsys, is_first):
    monkeypatch.setattr(progress_bar_hook, 'is_main_process', lambda: is_first)
    hook = ProgressBarHook()
    hook.before_run(None)
    hook.after_test_epoch(None, dict(mIoU=1.0))
    assert bool(capsys.readouterr().out) == is_first


def test_bar_on_a_terminal():
    """One line that is rewritten, also while validating."""
    hook = ProgressBarHook()
    hook.progress.live.console = hook.console = Console(file=io.StringIO(), force_terminal=True, width=100)
    hook.progress.disable = False
    hook._start('training', 10, 3)
    hook.progress.update(hook.progress.task_ids[0], completed=5, loss='loss 0.500')
    hook.progress.refresh()
    hook.progress.stop()
    text = hook.console.file.getvalue()
    assert '5/10' in text and 'loss 0.500' in text and 'left' in text
