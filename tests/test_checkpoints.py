"""Which checkpoint --resume continues, which are deleted, and what damaged and copied work dirs do."""

import os
import shutil
import signal
import zipfile
from pathlib import Path
from unittest import mock

import pytest
import torch
from helpers.survival import config, fork, journal, make_data, run, start, train, wait, wait_for_all
from kill_and_resume import compare

from mmvittm.engine.checkpoints import newest_checkpoint
from mmvittm.errors import UserError

HUB = dict(log_scalars={}, runtime_info={}, resumed_keys={})


def save(path: Path, iterations: int, **changes) -> Path:
    """Write a checkpoint that can be resumed, as far as newest_checkpoint reads it."""
    path.parent.mkdir(exist_ok=True)
    meta = dict(epoch=0, iter=iterations)
    state = dict(meta=meta, state_dict=dict(weight=torch.zeros(9)), optimizer={}, message_hub=HUB) | changes
    torch.save(state, path)
    return path


@pytest.fixture
def work_dir(tmp_path):
    """A work dir with checkpoints of 4, 8 and 12 iterations, the newest of which has the oldest file."""
    for age, iterations in enumerate((12, 8, 4)):
        os.utime(save(tmp_path / f'e1/iter_{iterations}.pth', iterations), (age, age))
    (tmp_path / 'e1' / 'last_checkpoint').write_text(str(tmp_path / 'e1' / 'iter_12.pth'))
    return tmp_path / 'e1'


def chosen(work_dir, *args):
    """Return the names of the checkpoint chosen and of the damaged ones that a warning names."""
    with mock.patch('mmvittm.engine.checkpoints.print_log') as log:
        path = newest_checkpoint(work_dir, *args)
    return path.relative_to(work_dir).name, [Path(call.args[0].split()[1]).name for call in log.call_args_list]


def test_times_of_files_do_not_matter(work_dir):
    assert chosen(work_dir) == ('iter_12.pth', [])
    (work_dir / 'last_checkpoint').unlink()
    save(work_dir / 'iter_100.pth', 100)
    os.utime(work_dir / 'iter_100.pth', (0, 0))
    assert chosen(work_dir) == ('iter_100.pth', [])


def test_last_checkpoint_is_honoured(work_dir):
    """A run that went back to 4 continues from 8, although an earlier run saved 12."""
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'iter_8.pth'))
    assert chosen(work_dir) == ('iter_8.pth', [])


@pytest.mark.parametrize('iterations, name', [(13, 'interrupted.pth'), (11, 'iter_12.pth')])
def test_interrupted_counts_by_its_iterations(work_dir, iterations, name):
    save(work_dir / 'interrupted.pth', iterations)
    (work_dir / 'last_checkpoint').unlink()
    assert chosen(work_dir)[0] == name


def test_copy_uses_its_own_files(work_dir, tmp_path):
    copy = shutil.copytree(work_dir, tmp_path / 'e2')
    save(work_dir / 'iter_16.pth', 16)
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'iter_16.pth'))
    assert newest_checkpoint(copy) == copy / 'iter_12.pth'
    for path in copy.glob('*.pth'):
        path.unlink()
    with pytest.raises(UserError, match=rf'all checkpoints in {copy} are damaged or missing'):
        newest_checkpoint(copy)


def test_checkpoints_in_another_folder(work_dir, tmp_path):
    """As ``default_hooks.checkpoint.out_dir`` saves them."""
    for path in (work_dir.rename(tmp_path / 'out')).glob('*.pth'):
        (tmp_path / 'e1').mkdir(exist_ok=True)
        (tmp_path / 'e1' / 'last_checkpoint').write_text(str(path))
    assert newest_checkpoint(tmp_path / 'e1', tmp_path / 'out') == path


def test_a_run_that_began_from_a_url(tmp_path):
    (tmp_path / 'resumed_from').write_text('https://example.org/iter_9.pth')
    assert newest_checkpoint(tmp_path) == 'https://example.org/iter_9.pth'


def write_other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr('notes.txt', 'not a checkpoint')


DAMAGES = dict(
    broken_link=lambda path: path.symlink_to(path.with_name('gone')),
    folder=lambda path: path.mkdir(),
    folder_of_notes=lambda path: (path.mkdir(), (path / 'notes.txt').touch()),
    fifo=lambda path: os.mkfifo(path),
    other_zip=write_other_zip,
    text=lambda path: path.write_text('weights'),
    no_dict=lambda path: torch.save([1], path),
    weights_alone=lambda path: torch.save(dict(weight=torch.zeros(1)), path),
    no_optimizer=lambda path: save(path, 12, optimizer=None),
    no_iteration=lambda path: save(path, 12, meta=dict(epoch='1')),
    missing=lambda path: None,
)


@pytest.mark.parametrize('damage', DAMAGES.values(), ids=DAMAGES)
def test_damaged_newest_falls_back(work_dir, damage):
    newest = work_dir / 'iter_12.pth'
    newest.unlink()
    damage(newest)
    assert chosen(work_dir) == ('iter_8.pth', ['iter_12.pth'])


def test_a_file_for_each_process(work_dir):
    """FSDP and DeepSpeed save a folder, whose name gives the iterations."""
    (work_dir / 'last_checkpoint').unlink()
    save(work_dir / 'interrupted.pth', 14)
    for rank in range(2):
        file = save(work_dir / 'iter_16.pth' / f'rank{rank}.pt', 1)
    assert chosen(work_dir) == ('iter_16.pth', [])
    file.write_bytes(file.read_bytes()[:-100])
    assert chosen(work_dir) == ('interrupted.pth', ['iter_16.pth'])


@pytest.mark.parametrize('content', [b'\xff\xfe\x00', b'x' * 5000, b'\x00'], ids=['latin', 'long', 'null'])
def test_last_checkpoint_is_damaged(work_dir, content):
    (work_dir / 'last_checkpoint').write_bytes(content)
    assert chosen(work_dir)[0] == 'iter_12.pth'


def test_last_checkpoint_is_a_fifo(work_dir):
    (work_dir / 'last_checkpoint').unlink()
    os.mkfifo(work_dir / 'last_checkpoint')
    assert chosen(work_dir) == ('iter_12.pth', [])


# Trainings


def small(data, work_dir, total, **options):
    """Config of a training in a single process, which starts faster."""
    workers = dict(train_dataloader__num_workers=0, train_dataloader__persistent_workers=False)
    return config('segmentation', data, work_dir, total, **workers, **options)


@pytest.fixture(scope='module')
def first_run(tmp_path_factory):
    """A run of 13 iterations, with a best checkpoint that any later one improves."""
    folder = tmp_path_factory.mktemp('first')
    make_data(folder / 'data')
    assert run(small(folder / 'data', folder / 'e1', 13), folder / 'log') == 0, (folder / 'log').read_text()
    for path in (folder / 'e1').glob('iter_*.pth'):
        checkpoint = torch.load(path, weights_only=False)
        checkpoint['message_hub']['runtime_info']['best_score'] = 0.0
        torch.save(checkpoint, path)
    return folder


@pytest.fixture
def e1(first_run, tmp_path):
    """A copy of the first run, whose checkpoints have the paths of the original."""
    return Path(shutil.copytree(first_run, tmp_path / 'first')) / 'e1'


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob('*.pth')}


def resume(e1, work_dir, total, load_from=None, prepare=lambda runner: None):
    cfg = small(e1.parent / 'data', work_dir, total, load_from=load_from and str(load_from))
    log = e1.parent / 'log'
    status = wait_for_all(start(cfg, lambda: train(cfg, resume=True, prepare=prepare), log))
    assert status in (0, -signal.SIGKILL), log.read_text()
    return log.read_text()


def test_first_run_keeps_its_best(e1, first_run):
    """Resumed in the work dir of yet another run, and in a copy: both save a better one."""
    before, original = contents(e1), contents(first_run / 'e1')
    e2 = e1.with_name('e2')
    e2.mkdir()
    others = [shutil.copy(path, e2) for path in (*e1.glob('best_*'), e1 / 'iter_12.pth')]
    resume(e1, e2, 18, e1 / 'iter_13.pth')
    assert (e2 / 'best_mIoU_iter_18.pth').is_file(), 'no better one'
    assert contents(e1) == before and all(Path(path).is_file() for path in others)
    resume(e1, e1, 18)
    assert contents(first_run / 'e1') == original
    assert [path.name for path in e1.glob('best_*')] == ['best_mIoU_iter_18.pth']


def test_linked_work_dir_is_its_own(e1):
    """The best checkpoint is replaced, and a checkpoint that is a link loses the link only."""
    kept = e1.with_name('iter_12.pth')
    (e1 / 'iter_12.pth').rename(kept)
    (e1 / 'iter_12.pth').symlink_to(kept)
    e1.with_name('link').symlink_to(e1)
    resume(e1, e1.with_name('link'), 18)
    assert sorted(contents(e1)) == ['best_mIoU_iter_18.pth', 'iter_15.pth', 'iter_18.pth']
    assert kept.is_file()


def killed_in(iteration):
    def prepare(runner):
        run_iter = runner.train_loop.run_iter

        def run_iter_or_die(*args):
            if runner.iter == iteration:
                os.kill(os.getpid(), signal.SIGKILL)
            run_iter(*args)

        runner.train_loop.run_iter = run_iter_or_die

    return prepare


def test_killed_before_its_first_checkpoint(e1):
    """A run that was resumed from another one starts there again, not from that one's later checkpoints."""
    e3 = e1.with_name('e3')
    resume(e1, e3, 18, e1 / 'iter_12.pth', killed_in(14))
    assert not list(e3.glob('iter_*.pth'))
    assert newest_checkpoint(e3) == e1 / 'iter_12.pth'
    resume(e1, e3, 18)
    assert min(journal(e3)) == 12
    assert newest_checkpoint(e3) == e3 / 'iter_18.pth'
    (e1 / 'iter_12.pth').unlink()
    assert newest_checkpoint(e3) == e3 / 'iter_18.pth'


def test_start_of_a_run_is_gone(work_dir, tmp_path):
    (tmp_path / 'e3').mkdir()
    (tmp_path / 'e3' / 'resumed_from').write_text(str(work_dir / 'iter_16.pth'))
    with pytest.raises(UserError, match=r'e3 was resumed from \S+iter_16.pth .*but checkpoint not found.*--resume'):
        newest_checkpoint(tmp_path / 'e3')


def test_resume_of_nothing_keeps_load_from(e1):
    """``--resume`` before the first checkpoint starts as the run itself did."""
    cfg = small(e1.parent / 'data', e1.with_name('e4'), 1, load_from=str(e1 / 'iter_12.pth'))
    log = e1.parent / 'log'
    assert wait(fork(lambda: train(cfg, resume='auto'), log)) == 0, log.read_text()
    assert f'Load checkpoint from {e1 / "iter_12.pth"}' in log.read_text()
    assert min(journal(e1.with_name('e4'))) == 0


def test_resume_from_another_folder(e1):
    """``default_hooks.checkpoint.out_dir`` has the checkpoints, in a folder of the work dir's name."""
    out = e1.parent / 'out' / 'e1'
    out.mkdir(parents=True)
    for path in e1.glob('*.pth'):
        path.rename(out / path.name)
    cfg = small(e1.parent / 'data', e1, 14, default_hooks__checkpoint__out_dir=str(out.parent))
    log = e1.parent / 'log'
    assert wait(fork(lambda: train(cfg, resume=True), log)) == 0, log.read_text()
    assert f'resuming from {out / "iter_13.pth"}' in log.read_text()


def killed_when_saving_again(moment):
    """Kill before or after the last checkpoint is saved again, since the validation found a new best model."""

    def prepare(runner):
        (saver,) = (hook for hook in runner.hooks if hasattr(hook, 'saved_iter'))
        save = saver._save_checkpoint_with_step

        def save_or_die(runner, step, meta):
            is_again = saver.saved_iter == step
            if not is_again or moment == 'after':
                save(runner, step, meta)
            if is_again:
                os.kill(os.getpid(), signal.SIGKILL)

        saver._save_checkpoint_with_step = save_or_die

    return prepare


def test_killed_before_the_last_names_the_best(first_run, tmp_path):
    """The resumed run saves it again, with the new score."""
    log = tmp_path / 'log'
    whole, cfg = (small(first_run / 'data', tmp_path / name, 7) for name in ('whole', 'killed'))
    assert run(whole, log) == 0, log.read_text()
    prepare = killed_when_saving_again('before')
    assert wait(fork(lambda: train(cfg, prepare=prepare), log)) == -signal.SIGKILL
    assert run(cfg, log) == 0, log.read_text()
    compare(tmp_path / 'whole', tmp_path / 'killed')


def test_killed_after_the_last_names_the_best(e1):
    resume(e1, e1, 18, prepare=killed_when_saving_again('after'))
    assert [path.name for path in e1.glob('best_*')] == ['best_mIoU_iter_18.pth'], 'the previous best one is left'


def test_signal_in_validation_with_a_waiting_batch(first_run, tmp_path):
    """The checkpoint of iteration 3 lacks the gradients of a batch, so the run goes on to iteration 4."""
    options = dict(optim_wrapper__accumulative_counts=2, train_cfg__val_interval=3)
    cfg = small(first_run / 'data', tmp_path / 'whole', 6, **options)
    log = tmp_path / 'log'
    assert run(cfg, log) == 0, log.read_text()
    cfg = small(first_run / 'data', tmp_path / 'stopped', 6, **options)

    def prepare(runner):
        run_iter = runner.val_loop.run_iter

        def run_iter_and_send(*args):
            if args[0] == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            run_iter(*args)

        runner.val_loop.run_iter = run_iter_and_send

    assert wait(fork(lambda: train(cfg, prepare=prepare), log)) == 143, log.read_text()
    assert 'stopped after iteration 4, saved in' in log.read_text()
    assert run(cfg, log) == 0, log.read_text()
    compare(tmp_path / 'whole', tmp_path / 'stopped')
