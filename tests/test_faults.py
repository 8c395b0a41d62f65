"""Faults of real machines and data: full disks, unreadable files, NaN."""

import resource
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from helpers.survival import config, fork, journal, make_data, train, wait
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from PIL import Image

from mmvittm.datasets import SeededDataset, SeededSampler
from mmvittm.datasets.checked import unreadable_file
from mmvittm.datasets.transforms import CheckLabels
from mmvittm.engine.hooks import NonFiniteHook, non_finite_hook
from mmvittm.errors import UserError
from mmvittm.fileio import require_writable
from mmvittm.weights.loading import load_checkpoint_file


def run(cfg, folder, resume=False, prepare=lambda runner: None):
    """Train in a fork; return its exit status and output."""
    log = folder / 'log'
    log.unlink(missing_ok=True)
    status = wait(fork(lambda: train(cfg, resume, prepare), log))
    return status, log.read_text()


@pytest.fixture
def data(tmp_path):
    make_data(tmp_path / 'data')
    return tmp_path / 'data'


def in_process(cfg):
    """Copy a config, without data loader workers, which is faster for a few images."""
    cfg = Config(cfg.to_dict())
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    return cfg


def test_full_disk(data, tmp_path):
    """A limit on the file size fails as a full disk does."""
    cfg = in_process(config('segmentation', data, tmp_path / 'run', 3))
    status, log = run(cfg, tmp_path)
    assert status == 0, log
    before = {path: path.read_bytes() for path in (tmp_path / 'run').glob('*.pth')}
    size = (tmp_path / 'run' / 'iter_3.pth').stat().st_size
    cfg.train_cfg.max_iters = 9

    def limit(runner):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1000, size - 1000))

    status, log = run(cfg, tmp_path, resume=True, prepare=limit)
    assert status == 1, log
    sentence = log.splitlines()[-1]
    assert 'the checkpoint cannot be written to' in sentence and 'File too large' in sentence
    after = {path: path.read_bytes() for path in (tmp_path / 'run').glob('*.pth')}
    assert after == before
    assert Path((tmp_path / 'run' / 'last_checkpoint').read_text()).name == 'iter_3.pth'
    assert not list((tmp_path / 'run').glob('.*')), 'a temporary file is left'


@pytest.mark.parametrize('folder', ['/proc/nowhere', '{tmp}/file', '{tmp}/file/folder'])
def test_unwritable_work_dir(folder, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match=r'cannot write to .*choose a folder you can write to'):
        require_writable(folder.format(tmp=tmp_path))


def test_unwritable_work_dir_of_a_training(data, tmp_path):
    status, log = run(config('segmentation', data, Path('/proc/nowhere'), 3), tmp_path)
    assert status == 1 and log.splitlines()[-1].startswith('error: cannot write to /proc/nowhere'), log


BROKEN = dict(
    cut_image=('image', 'images/03.png', lambda path: path.write_bytes(path.read_bytes()[:100])),
    empty_image=('image', 'images/03.png', lambda path: path.write_bytes(b'')),
    missing_image=('image', 'images/03.png', lambda path: path.unlink()),
    text_label=('label map', 'labels/03.png', lambda path: path.write_text('not an image')),
    cut_label=('label map', 'labels/03.png', lambda path: path.write_bytes(path.read_bytes()[:60])),
)


def broken_dataset(data, path, break_file, limit):
    cfg = config('segmentation', data, data, 1)
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = SeededDataset(cfg.train_dataloader.dataset, max_corrupt_files=limit)
        len(dataset)
    break_file(data / path)
    return dataset, list(SeededSampler(dataset, dict(type='DefaultSampler'), seed=3))


@pytest.mark.parametrize('kind, path, break_file', BROKEN.values(), ids=BROKEN)
def test_corrupt_file_is_named(data, kind, path, break_file):
    dataset, draws = broken_dataset(data, path, break_file, 0)
    with pytest.raises(UserError, match=rf'{kind} {data / path} cannot be read .*max_corrupt_files, now 0'):
        [dataset[draw] for draw in draws]


def test_images_too_large_for_pillow(data, monkeypatch):
    """OpenCV reads them, so another fault of the sample is not theirs; MMSegmentation reads label maps with Pillow."""
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10)
    image, labels = (str(data / folder / '03.png') for folder in ('images', 'labels'))
    assert unreadable_file(dict(img_path=image)) is None
    assert unreadable_file(dict(img_path=image, seg_map_path=labels)).startswith(f'label map {labels} cannot be read')
    entry = dict(gt_seg_map=np.zeros((2, 2), np.uint8), seg_map_path=labels)
    assert CheckLabels(3).transform(entry) is entry


def test_corrupt_files_up_to_the_limit(data):
    dataset, draws = broken_dataset(data, 'images/03.png', lambda path: path.write_bytes(b''), 1)
    first, again = ([dataset[draw] for draw in draws] for _ in range(2))
    assert int(dataset.corrupt.sum()) == 1
    assert dataset.corrupt.is_shared(), 'each worker counts alone'
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one['inputs'], other['inputs']), 'the replacement is not reproducible'
    assert '03.png' not in {Path(sample['data_samples'].img_path).name for sample in first}
    (data / 'labels' / '07.png').write_bytes(b'')
    with pytest.raises(UserError, match=r'07\.png cannot be read'):
        [dataset[draw] for draw in draws]


def test_all_files_corrupt(data):
    dataset, draws = broken_dataset(
        data, 'images', lambda folder: [image.write_bytes(b'') for image in folder.iterdir()], 99
    )
    with pytest.raises(UserError, match='cannot be read') as stopped:
        [dataset[draw] for draw in draws]
    assert 'allow more' not in str(stopped.value), 'there are no others'


def test_bug_is_no_corrupt_file(data):
    dataset, draws = broken_dataset(data, 'images/03.png', lambda path: None, 5)
    dataset.dataset.pipeline.transforms.insert(1, lambda results: results['no such key'])
    with pytest.raises(KeyError, match='no such key'):
        dataset[draws[0]]


def test_training_with_a_corrupt_file(data, tmp_path):
    (data / 'images' / '03.png').write_bytes(b'')
    cfg = config('segmentation', data, tmp_path / 'run', 4, train_cfg__max_corrupt_files=1, train_cfg__val_begin=99)
    status, log = run(cfg, tmp_path)
    assert status == 0, log
    assert '03.png cannot be read' in log and 'replaced by another sample (1 of at most 1)' in log
    cfg.train_cfg.max_corrupt_files = 0
    status, log = run(cfg, tmp_path)
    assert status == 1 and f'UserError: image {data}/images/03.png cannot be read' in log, log


@pytest.mark.parametrize('name', [name for name in BROKEN if name != 'missing_image'])
@pytest.mark.parametrize('workers', [0, 1])
def test_corrupt_file_in_validation(data, tmp_path, workers, name):
    kind, path, break_file = BROKEN[name]
    cfg = config('segmentation', data, tmp_path / 'run', 1, val_dataloader__num_workers=workers)
    cfg.val_cfg = dict(type='mmvittm.CheckedValLoop')
    break_file(data / path)
    status, log = run(cfg, tmp_path, prepare=lambda runner: runner.val())
    assert status == 1 and f'{kind} {data / path} cannot be read' in log, log


class PoisonHook(Hook):
    """Make the images of some iterations NaN, and save the weights before and after."""

    priority = 'HIGHEST'

    def __init__(self, iterations, notes):
        self.iterations = iterations
        self.notes = notes

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter in self.iterations:
            data_batch['inputs'][0] = data_batch['inputs'][0] * torch.tensor(float('nan'))
            torch.save(runner.model.state_dict(), self.notes / f'before_{runner.iter}.pth')
        elif runner.iter - 1 in self.iterations:
            torch.save(runner.model.state_dict(), self.notes / f'after_{runner.iter - 1}.pth')


def test_nan_changes_nothing(data, tmp_path):
    cfg = in_process(config('segmentation', data, tmp_path / 'run', 6))
    status, log = run(cfg, tmp_path, prepare=lambda runner: runner.register_hook(PoisonHook([1, 4], tmp_path)))
    assert status == 0, log
    for iteration in (1, 4):
        before, after = (torch.load(tmp_path / f'{when}_{iteration}.pth') for when in ('before', 'after'))
        assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
        assert f'not finite in iteration {iteration + 1}: batch skipped (1 in a row)' in log
    weights = load_checkpoint_file(tmp_path / 'run' / 'iter_6.pth')
    for part in ('state_dict', 'ema_state_dict'):
        assert all(value.isfinite().all() for value in weights[part].values())
    assert not np.isfinite(float.fromhex(next(iter(journal(tmp_path / 'run')[1])).split('"')[-2]))


def test_nan_with_gradient_accumulation(data, tmp_path):
    """One bad batch spoils the optimizer step, and only its file is named."""
    cfg = in_process(config('segmentation', data, tmp_path / 'run', 12, default_hooks__non_finite__patience=2))
    cfg.optim_wrapper.accumulative_counts = 3
    status, log = run(cfg, tmp_path, prepare=lambda runner: runner.register_hook(PoisonHook([1, 6, 9], tmp_path)))
    assert status == 1, log
    for iteration in (3, 9):
        assert f'not finite in iteration {iteration}: batch skipped (1 in a row)' in log
    sentence = log.splitlines()[-1]
    assert 'not finite in iteration 12, 2 batches in a row' in sentence
    assert 4 <= sentence.count('.png') <= 8, 'the files of two batches of four'


class Steps:
    """Steps of a weight of 1 by a learning rate of 1, watched by the hook."""

    def __init__(self, **options):
        self.hook, self.weight = NonFiniteHook(**options), torch.nn.Parameter(torch.ones(1))
        self.optimizer = torch.optim.SGD([self.weight], lr=1.0)
        self.runner = mock.Mock(model=torch.nn.Identity(), iter=0)
        self.runner.optim_wrapper.optimizer = self.optimizer
        self.hook.before_train(self.runner)

    def step(self, file, loss, gradient=None):
        self.hook.before_train_iter(self.runner, 0)
        if gradient is not None:  # else the loss scaler of fp16 skips the step
            self.weight.grad = torch.tensor([gradient])
            self.optimizer.step()
        samples = dict(data_samples=[dict(img_path=file)])
        self.hook.after_train_iter(self.runner, 0, samples, dict(loss=torch.tensor(loss)))


def test_a_good_step_ends_the_row():
    """The sentence names the files of the last skipped steps only, and those that fp16 skips are not counted."""
    steps, nan = Steps(patience=2), float('nan')
    for file, *numbers in (('a', nan, nan), ('b', 1.0, 0.5), ('c', 1.0), ('d', 1.0), ('e', nan, nan)):
        steps.step(f'{file}.png', *numbers)
    assert steps.weight.item() == 0.5
    warnings = [call.args[0].partition('skipped ')[2] for call in steps.runner.logger.warning.call_args_list]
    assert warnings == ['(1 in a row), files: a.png', '(1 in a row), files: e.png']
    with pytest.raises(UserError, match=r'2 batches in a row: .* files: e\.png, f\.png$'):
        steps.step('f.png', nan, nan)


def test_nan_of_another_process(monkeypatch):
    """All processes skip the step, and name the file of the one that has it."""
    monkeypatch.setattr(non_finite_hook, 'all_reduce', lambda bad, op: bad.fill_(op == 'max'))
    monkeypatch.setattr(non_finite_hook, 'all_gather_object', lambda files: [files, ['theirs.png']])
    steps = Steps()
    steps.step('ours.png', 1.0, 0.5)
    assert steps.weight.item() == 1
    assert steps.runner.logger.warning.call_args.args[0].endswith('(1 in a row), files: theirs.png')


def test_nan_in_a_row(data, tmp_path):
    cfg = in_process(config('segmentation', data, tmp_path / 'run', 9, default_hooks__non_finite__patience=3))
    status, log = run(cfg, tmp_path, prepare=lambda runner: runner.register_hook(PoisonHook([1, 3, 4, 5], tmp_path)))
    assert status == 1, log
    sentence = log.splitlines()[-1]
    assert 'not finite in iteration 6, 3 batches in a row' in sentence
    assert sentence.count('.png') >= 4 and str(data) in sentence
    assert Path((tmp_path / 'run' / 'last_checkpoint').read_text()).name == 'iter_3.pth'
