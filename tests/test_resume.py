"""Compare killed and resumed trainings with uninterrupted ones, and check that checkpoints stay intact."""

import os
import random
import shutil
import signal
import subprocess
from contextlib import suppress
from itertools import islice, product
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from helpers.survival import TASKS, config, fork, journal, make_data, state, train, wait
from kill_and_resume import compare, survive
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import LOOPS, DefaultScope
from mmengine.utils import digit_version

from mmvittm.apis.config import load_config
from mmvittm.datasets import SeededDataset, SeededSampler
from mmvittm.engine import ResumableEpochLoop, ResumableIterLoop, SafeCheckpointHook, StopOnSignalHook
from mmvittm.engine.checkpoints import newest_checkpoint
from mmvittm.engine.hooks import stop_on_signal_hook
from mmvittm.engine.hooks.safe_checkpoint_hook import accumulated_batches
from mmvittm.engine.runner import loops
from mmvittm.errors import UserError
from mmvittm.fileio import atomic_path, remove_leftovers

ROOT = Path(__file__).parents[1]
# torch 2.1 starts threads in a data loader worker before the worker can block SIGTERM
WORKERS_OUTLIVE_SIGNALS = digit_version(torch.__version__) >= digit_version('2.6')
TRAINED = [path for path in sorted((ROOT / 'configs').rglob('v*/**/*.py')) if 'train_cfg' in load_config(path)]


@pytest.mark.parametrize('task', TASKS)
def test_killed_in_every_way(task, tmp_path):
    """A short form of tests/kill_and_resume.py."""
    # long enough for four ends, however late
    counts = survive(task, tmp_path, total=12 if task == 'classification' else 40, kills=4, seed=1)
    assert counts['between_file_operations'] + counts['while_writing'] == 2


def test_kills_just_before_last_checkpoint(tmp_path):
    """``last_checkpoint`` then names one of the checkpoints that mmengine deletes on resume."""
    make_data(tmp_path / 'data')
    cfg = config('segmentation', tmp_path / 'data', tmp_path / 'run', 12, train_cfg__val_interval=99)

    def killed_when_naming(name):
        def write_text(path, text):
            if text.endswith(name):
                os.kill(os.getpid(), signal.SIGKILL)
            path.write_bytes(text.encode())

        def work():
            Path.write_text = write_text
            train(cfg, resume=True)

        return wait(fork(work, tmp_path / 'log'))

    named = []
    for name in ('iter_6.pth', 'iter_9.pth', 'iter_12.pth'):
        assert killed_when_naming(name) == -signal.SIGKILL, (tmp_path / 'log').read_text()
        assert (tmp_path / 'run' / name).is_file(), 'killed too early'
        path = Path((tmp_path / 'run' / 'last_checkpoint').read_text())
        assert path.is_file(), f'{path} is not there any more'
        named.append(path.name)
    assert named == ['iter_3.pth', 'iter_6.pth', 'iter_9.pth']


@pytest.fixture(scope='module', params=['segmentation', 'classification'])
def finished(request, tmp_path_factory):
    """Train 12 iterations without interruption; return the folder and the config."""
    folder = tmp_path_factory.mktemp(request.param)
    make_data(folder / 'data')
    cfg = config(request.param, folder / 'data', folder / 'whole', 12 if request.param == 'segmentation' else 3)
    assert wait(fork(lambda: train(cfg), folder / 'log')) == 0, (folder / 'log').read_text()
    return folder, cfg


def test_signal_saves_and_exits(finished):
    """Within an epoch, between two checkpoints; the resumed run has another number of workers.

    The signal goes to the process group, as from a terminal or a scheduler, so to the data loader workers too.
    """
    folder, whole = finished
    number, status = dict(mmseg=(signal.SIGTERM, 143), mmpretrain=(signal.SIGINT, 130))[whole.default_scope]
    cfg = Config({**whole, 'work_dir': str(folder / 'stopped')})

    def send(runner):
        os.setpgid(0, 0)
        run_iter = runner.train_loop.run_iter

        def run_iter_and_send(*args):
            if runner.iter == 6:
                # sent by another process, since workers obey the main process
                whom = f'-{os.getpgrp()}' if WORKERS_OUTLIVE_SIGNALS else str(os.getpid())
                subprocess.run(['kill', f'-{number}', '--', whom], start_new_session=True, check=True)
            run_iter(*args)

        runner.train_loop.run_iter = run_iter_and_send

    log, work_dir = folder / 'log_stopped', Path(cfg.work_dir)
    assert wait(fork(lambda: train(cfg, prepare=send), log)) == status, log.read_text()
    assert 'stopped after iteration 7, saved in' in log.read_text()
    assert (work_dir / 'last_checkpoint').read_text() == str(work_dir / 'interrupted.pth')
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    assert wait(fork(lambda: train(cfg, resume=True), log)) == 0, log.read_text()
    compare(folder / 'whole', work_dir)


def test_a_scheduler_with_functions_resumes(tmp_path):
    """OneCycleLR has a bound method in its state, which safe loading refuses."""
    make_data(tmp_path / 'data')
    schedule = [dict(type='OneCycleLR', eta_max=0.01, total_steps=12, by_epoch=False)]
    cfg = config('segmentation', tmp_path / 'data', tmp_path / 'run', 12, param_scheduler=schedule)
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    log = tmp_path / 'log'
    assert wait(fork(lambda: train(cfg), log)) == 0, log.read_text()
    shutil.copytree(tmp_path / 'run', tmp_path / 'whole')
    (tmp_path / 'run' / 'iter_12.pth').unlink()
    assert wait(fork(lambda: train(cfg, resume=True), log)) == 0, log.read_text()
    assert 'resumed epoch: 0, iter: 9' in log.read_text()
    compare(tmp_path / 'whole', tmp_path / 'run')


# only the segmentation config counts by iteration
@pytest.mark.parametrize('finished', ['segmentation'], indirect=True)
def test_resume_loads_no_earlier_sample(finished):
    """Resume at iteration 100,000 and compare the loaded samples with those of the sampler."""
    folder, cfg = finished
    start = 100_000
    cfg = Config({**cfg, 'work_dir': str(folder / 'far')})
    cfg.train_cfg.max_iters = start + 2
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    checkpoint = torch.load(folder / 'whole' / 'iter_9.pth', weights_only=False)
    checkpoint['meta']['iter'] = start
    Path(cfg.work_dir).mkdir()
    torch.save(checkpoint, folder / 'far' / f'iter_{start}.pth')
    loads = folder / 'loads'

    def count(runner):
        dataset = runner.train_loop.dataloader.dataset
        prepare_data = dataset.dataset.prepare_data

        def noted(index):
            with loads.open('a') as file:
                file.write(f'{index:02}.png\n')
            return prepare_data(index)

        dataset.dataset.prepare_data = noted

    assert wait(fork(lambda: train(cfg, resume=True, prepare=count), folder / 'log')) == 0
    assert sorted(journal(folder / 'far')) == [start, start + 1]
    sampler = SeededSampler(range(16), dict(type='InfiniteSampler'), endless=True, seed=7)
    expected = [f'{draw.index:02}.png' for draw in islice(sampler, start * 4, start * 4 + 8)]
    assert loads.read_text().split() == expected


def test_sampler_starts_anywhere():
    for kind, endless in (('InfiniteSampler', True), ('DefaultSampler', True), ('DefaultSampler', False)):
        sampler = SeededSampler(range(10), dict(type=kind), endless=endless, seed=3)
        whole = list(islice(sampler, 25))
        assert len({draw.key for draw in whole}) == len(whole) == (25 if endless else 10)
        sampler.start = 7
        assert list(islice(sampler, 18)) == whole[7:]


def test_processes_share_the_draws():
    def draws(rank, world_size):
        info = mock.Mock(return_value=(rank, world_size))
        with (
            mock.patch('mmvittm.datasets.seeded.get_dist_info', info),
            mock.patch('mmengine.dataset.sampler.get_dist_info', info),
        ):
            sampler = SeededSampler(range(10), dict(type='InfiniteSampler'), endless=True, seed=3)
            return list(islice(sampler, 20 // world_size))

    alone, first, second = draws(0, 1), draws(0, 2), draws(1, 2)
    assert [draw for pair in zip(first, second, strict=True) for draw in pair] == alone


def test_processes_that_start_apart():
    """As on machines of which one does not see the work dir."""
    loop = ResumableIterLoop.__new__(ResumableIterLoop)
    loop._runner, loop.dataloader, loop._iter = mock.Mock(seed=3), mock.Mock(), 0

    def broadcast(objects):
        objects[:] = [3, 12]

    with (
        mock.patch('mmvittm.engine.runner.loops.broadcast_object_list', broadcast),
        pytest.raises(UserError, match='starts after iteration 0, but rank 0 after 12'),
    ):
        loop._begin()


@pytest.mark.parametrize(('length', 'done', 'warnings'), [(4, 1, 0), (5, 0, 1)])
def test_batches_done_of_an_epoch_of_another_length(length, done, warnings):
    """The checkpoint is one batch into the third epoch of four batches."""
    loop, hub = ResumableEpochLoop.__new__(ResumableEpochLoop), MessageHub('epoch')
    hub.update_info('epoch_length', 4)
    loop._runner = mock.Mock(message_hub=hub)
    loop.dataloader, loop._iter, loop._epoch = range(length), 9, 2
    assert loop._batches_done() == done
    assert loop.runner.logger.warning.call_count == warnings
    assert hub.get_info('epoch_length') == length


def test_epochs_whose_length_changes_twice():
    """Two epochs of 10 batches, then of 5, then of 10 again, and each time the run is killed within the second one."""
    hub, done, logger = MessageHub('epochs'), (0, 0), mock.Mock()
    for length, first, batches in ((10, 0, 20), (5, 0, 7), (5, 2, 3), (10, 0, 13), (10, 3, 7)):
        loop, seen = ResumableEpochLoop.__new__(ResumableEpochLoop), []
        loop._runner, loop.dataloader = mock.Mock(message_hub=hub, logger=logger), range(length)
        loop._epoch, loop._iter = done
        loop._batches = lambda start, length=length: ((index, None) for index in range(start, length))

        def run_iter(index, batch, loop=loop, seen=seen, batches=batches):
            if len(seen) == batches:
                raise KeyboardInterrupt
            seen.append(index)
            loop._iter += 1

        loop.run_iter = run_iter
        loop._first_batch = loop._batches_done()
        assert loop._first_batch == first
        with suppress(KeyboardInterrupt):
            while len(seen) < batches:
                loop.run_epoch()
        assert seen == [(first + step) % length for step in range(batches)]
        done = loop._epoch, loop._iter
    logger.warning.assert_not_called()


@pytest.mark.parametrize('kind', ['Val', 'Test'])
def test_loops_have_their_old_names(kind):
    assert LOOPS.get(f'mmvittm.Readable{kind}Loop') is LOOPS.get(f'mmvittm.Checked{kind}Loop') is not None


@pytest.mark.parametrize(('begin', 'validated'), [(0, [2, 4, 5]), (3, [4, 5])])
def test_no_validation_before_the_first_step(begin, validated):
    """Each that is due happens once, although a resumed run asks again, and the end of the training is always due."""
    loop, seen = ResumableIterLoop.__new__(ResumableIterLoop), []
    loop._runner = mock.Mock(message_hub=MessageHub('untrained'))
    loop._runner.val_loop.run = lambda: seen.append(done)
    loop.val_begin, loop.val_interval, loop._decide_current_val_interval = begin, 2, lambda: None
    for done in sorted([*range(6)] * 2):
        loop._validate(done, 5)
    assert seen == validated


def test_random_numbers_of_an_iteration(monkeypatch):
    """Those of Python, NumPy and PyTorch depend on the seed of the run, the iteration and the rank, and on no more."""

    class Drawing:
        def run_iter(self):
            self.drawn = random.random(), np.random.rand(), torch.rand(1).item()

    loop_type = type('Loop', (loops._ResumableLoop, Drawing), dict(dataloader=mock.Mock()))
    drawn = []
    for seed, iteration, rank in 2 * list(product((3, 4), (0, 1), (0, 1))):
        loop = loop_type.__new__(loop_type)
        loop.dataloader.sampler.seed, loop._iter = seed, iteration
        monkeypatch.setattr(loops, 'get_rank', lambda rank=rank: rank)
        loop.run_iter()
        drawn.append(loop.drawn)
    assert drawn[:8] == drawn[8:]
    assert [len(set(numbers)) for numbers in zip(*drawn, strict=True)] == [8, 8, 8]


def test_signal_handlers_are_restored():
    """After a signal, so that a second one ends the process at once, and after the training."""
    numbers = signal.SIGTERM, signal.SIGINT
    before = [signal.getsignal(number) for number in numbers]
    hook = StopOnSignalHook()
    runner = mock.Mock(hooks=[SafeCheckpointHook(by_epoch=False)], val_loop=None)
    for end in (lambda: os.kill(os.getpid(), signal.SIGTERM), lambda: hook.after_train(runner)):
        hook.before_train(runner)
        assert [signal.getsignal(number) for number in numbers] == [hook._receive] * 2
        end()
        assert [signal.getsignal(number) for number in numbers] == before
    assert hook.received == signal.SIGTERM


@pytest.mark.parametrize(('done', 'waiting'), [(1, 1), (2, 2), (3, 0), (4, 1), (5, 0)])
def test_gradients_that_wait(done, waiting):
    """mmengine also steps after the last batch, the fifth of steps of three."""
    wrapper = mock.Mock(_inner_count=done, _accumulative_counts=3, _max_counts=5)
    assert accumulated_batches(mock.Mock(optim_wrapper=wrapper)) == waiting


@pytest.mark.parametrize(
    ('batches', 'interval', 'agrees'), [(1, 3, [3, 6, 9, 12]), (4, 3, [4, 8, 12]), (2, 5, [4, 8, 12])]
)
def test_processes_agree_after_an_optimizer_step(monkeypatch, batches, interval, agrees):
    asked = []
    monkeypatch.setattr(stop_on_signal_hook, 'get_world_size', lambda: 2)
    monkeypatch.setattr(stop_on_signal_hook, 'all_reduce', lambda *args: asked.append(runner.iter + 1))
    hook, runner = StopOnSignalHook(interval), mock.Mock()
    for runner.iter in range(12):
        runner.optim_wrapper = mock.Mock(_inner_count=runner.iter + 1, _accumulative_counts=batches, _max_counts=-1)
        hook.after_train_iter(runner, runner.iter)
    assert asked == agrees


def test_sample_depends_on_its_position_only(tmp_path):
    make_data(tmp_path)
    cfg = config('segmentation', tmp_path, tmp_path, 1)
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = SeededDataset(cfg.train_dataloader.dataset)
    draws = list(SeededSampler(dataset, dict(type='DefaultSampler'), seed=3))
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    first = [dataset[draw]['inputs'] for draw in draws]
    again = [dataset[draw]['inputs'] for draw in reversed(draws)]
    assert all(torch.equal(one, other) for one, other in zip(first, reversed(again), strict=True))
    same_file = [dataset[draws[0]._replace(key=(3, epoch, 0))]['inputs'] for epoch in range(4)]
    assert not all(torch.equal(same_file[0], other) for other in same_file), 'all epochs have the same augmentation'


@pytest.mark.parametrize('path', TRAINED, ids=lambda path: path.stem)
def test_hooks_and_loops_of_configs(path):
    cfg = load_config(path)
    assert cfg.train_cfg.type in ('mmvittm.ResumableIterLoop', 'mmvittm.ResumableEpochLoop')
    assert cfg.default_hooks.checkpoint.type == 'mmvittm.SafeCheckpointHook'
    assert cfg.default_hooks.checkpoint.max_keep_ckpts >= 2
    assert {'non_finite', 'stop_on_signal'} <= cfg.default_hooks.keys()


def flip_bits(data: bytes) -> bytes:
    """In 256 bytes, since a single byte may be padding, which has no checksum."""
    middle = len(data) // 2
    return data[:middle] + bytes(byte ^ 1 for byte in data[middle : middle + 256]) + data[middle + 256 :]


@pytest.mark.parametrize('damage', [lambda b: b[:-100], flip_bits, lambda b: b''], ids=['cut', 'bit', 'empty'])
def test_damaged_newest_is_skipped(finished, damage, tmp_path):
    folder, _ = finished
    shutil.copytree(folder / 'whole', tmp_path / 'copy')
    pointer = tmp_path / 'copy' / 'last_checkpoint'
    newest = tmp_path / 'copy' / Path(pointer.read_text()).name
    pointer.write_text(str(newest))
    assert newest_checkpoint(tmp_path / 'copy') == newest
    newest.write_bytes(damage(newest.read_bytes()))
    with mock.patch('mmvittm.engine.checkpoints.print_log') as log:
        before = newest_checkpoint(tmp_path / 'copy')
    assert f'{newest} is damaged' in log.call_args.args[0]
    assert before.stem.split('_')[0] == newest.stem.split('_')[0] and before != newest
    assert state(before)['/meta/iter'] < 12
    before.write_bytes(damage(before.read_bytes()))
    with pytest.raises(UserError, match=r'all checkpoints in .* are damaged'):
        newest_checkpoint(tmp_path / 'copy')


def test_resume_of_nothing(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    (tmp_path / 'last_checkpoint').write_text('')
    assert newest_checkpoint(tmp_path) is None
    (tmp_path / 'best_mIoU_iter_3.pth').touch()
    assert newest_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    ('save_best', 'names'),
    [
        ('a', ['best_a_iter_2.pth']),
        ('auto', ['best_a_iter_2.pth']),
        (['a', 'b'], ['best_a_iter_2.pth', 'best_b_iter_3.pth']),
    ],
    ids=str,
)
def test_the_best_checkpoint_of_each_metric_is_kept(tmp_path, save_best, names):
    runner = mock.Mock(work_dir=str(tmp_path), _resume=False, optim_wrapper=None, message_hub=MessageHub('best'))
    runner.save_checkpoint = lambda folder, filename, *args, **kwargs: Path(folder, filename).touch()
    for runner.iter, metrics in enumerate([dict(a=1, b=1), dict(a=2, b=0), dict(a=0, b=3)], 1):
        hook = SafeCheckpointHook(by_epoch=False, save_best=save_best, rule='greater')
        hook.before_train(runner)  # as if each step resumed
        hook._save_best_checkpoint(runner, metrics)
        assert all(path and Path(path).exists() for path in hook._best)
    assert sorted(path.name for path in tmp_path.glob('best_*')) == names


def test_checkpoint_between_two_optimizer_steps(tmp_path):
    """It says what it lacks; --resume continues from it, and no longer from where the run began."""
    runner = mock.Mock(work_dir=str(tmp_path), _resume=False, iter=3, message_hub=MessageHub('between'))
    runner.optim_wrapper = mock.Mock(_inner_count=4, _accumulative_counts=3, _max_counts=-1)
    hook = SafeCheckpointHook(by_epoch=False)
    hook.before_train(runner)
    (tmp_path / 'resumed_from').write_text('elsewhere.pth')
    assert hook.save_interrupted(runner) == str(tmp_path / 'interrupted.pth')
    assert runner.save_checkpoint.call_args.kwargs['meta']['iter'] == hook.saved_iter == 4
    warning = 'interrupted.pth does not include the accumulated gradients of 1 batches'
    assert runner.logger.warning.call_args.args[0].startswith(warning)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        'last_checkpoint': str(tmp_path / 'interrupted.pth')
    }


def test_only_temporary_files_are_removed(tmp_path):
    for name in ('iter_3.pth', 'last_checkpoint'):
        with atomic_path(tmp_path / name) as temporary:
            leftover = temporary.name
        (tmp_path / leftover).touch()
    (tmp_path / '.my-notes').touch()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['.my-notes', 'iter_3.pth', 'last_checkpoint']
