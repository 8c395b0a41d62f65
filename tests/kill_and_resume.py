"""Kill tiny trainings at random moments, resume them, and compare them with uninterrupted ones bit by bit.

python tests/kill_and_resume.py --kills 24        # takes minutes; tests/test_resume.py runs a shorter form
"""

import argparse
import shutil
import tempfile
from itertools import cycle
from pathlib import Path

from helpers.survival import (
    TASKS,
    WAYS,
    Killer,
    config,
    differences,
    fork,
    journal,
    logged_losses,
    make_data,
    state,
    train,
    wait,
)
from rich.progress import track

from mmvittm.weights.loading import load_checkpoint_file


def check_files(work_dir: Path) -> None:
    """Check that all checkpoints are intact and that ``last_checkpoint`` names one of them."""
    for path in work_dir.glob('[!.]*.pth'):
        load_checkpoint_file(path)
    pointer = work_dir / 'last_checkpoint'
    if pointer.exists():
        assert Path(pointer.read_text()).is_file(), f'{pointer} points to nothing'


def compare(reference: Path, killed: Path) -> None:
    """Compare last and best checkpoints, the inputs and losses of all iterations, and the logged losses."""
    names = sorted(path.name for path in reference.glob('*.pth'))
    assert names == sorted(path.name for path in killed.glob('*.pth')), sorted(killed.glob('*.pth'))
    for name in names:
        assert not (found := differences(state(reference / name), state(killed / name))), (name, found[:10])
    expected, seen = journal(reference), journal(killed)
    assert expected == seen, {key: seen.get(key) for key in expected if seen.get(key) != expected[key]}
    expected, seen = logged_losses(reference), logged_losses(killed)
    assert all(len(lines) == 1 for lines in expected.values())
    assert expected == seen, {key: seen.get(key) for key in expected if seen.get(key) != expected[key]}


def survive(task: str, folder: Path, total: int, kills: int, seed: int = 0) -> dict[str, int]:
    """Train once without and once with kills, and compare.

    Returns:
        dict: Number of kills of each kind, of iterations, and of repeated iterations.
    """
    make_data(folder / 'data')
    log, reference, killed = folder / 'log', folder / 'reference', folder / 'killed'
    assert wait(fork(lambda: train(config(task, folder / 'data', reference, total)), log)) == 0, log.read_text()
    killer, counts = Killer(seed), dict.fromkeys(WAYS, 0)
    cfg = config(task, folder / 'data', killed, total)
    for way, _ in zip(cycle(WAYS), track(range(kills), task), strict=False):
        status = killer.run(cfg, log, way)
        assert status in (-9, 0), log.read_text()[-3000:]
        counts[way] += status == -9
        if killed.is_dir():
            check_files(killed)
    assert wait(fork(lambda: train(cfg, resume=True), log)) == 0, log.read_text()[-3000:]
    compare(reference, killed)
    lines = len((killed / 'journal.jsonl').read_text().splitlines())
    return counts | dict(iterations=len(journal(killed)), run_again=lines - len(journal(killed)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=24, help='kills per task (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='random seed (default: %(default)s)')
    parser.add_argument('--tasks', nargs='+', choices=TASKS, default=TASKS, help='trainings to kill (default: both)')
    args = parser.parse_args()
    for task in args.tasks:
        folder = Path(tempfile.mkdtemp(prefix='kill_and_resume_'))
        total = args.kills * 6 if task == 'segmentation' else args.kills * 2  # long enough for all kills
        print(task, survive(task, folder, total, args.kills, args.seed), 'identical')
        shutil.rmtree(folder)


if __name__ == '__main__':
    main()
