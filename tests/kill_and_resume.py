"""Kill tiny trainings at random moments, resume them, and compare them with uninterrupted ones bit by bit.

python tests/kill_and_resume.py --kills 24        # takes minutes; tests/test_resume.py runs a shorter form
"""

import argparse
import shutil
import signal
import tempfile
from itertools import cycle
from pathlib import Path

from helpers.survival import (
    TASKS,
    WAYS,
    Killer,
    config,
    differences,
    journal,
    logged,
    make_data,
    run,
    state,
)
from rich.progress import track

from mmvittm.weights.loading import load_checkpoint_file

# SIGKILL, SIGTERM before and after the training handles it, and the end before either
_EXPECTED = (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM, 0)


def check_files(work_dir: Path) -> None:
    """Check that all checkpoints are intact and that ``last_checkpoint`` names one of them."""
    for path in work_dir.glob('[!.]*.pth'):
        load_checkpoint_file(path)
    pointer = work_dir / 'last_checkpoint'
    if pointer.exists():
        assert Path(pointer.read_text()).is_file(), f'{pointer} points to nothing'


def compare(reference: Path, killed: Path) -> None:
    """Compare checkpoints, inputs and losses of all iterations, predictions of all validations, and the logs."""
    names = sorted(path.name for path in reference.glob('*.pth'))
    assert names == sorted(path.name for path in killed.glob('*.pth')), sorted(killed.glob('*.pth'))
    for name in names:
        assert not (found := differences(state(reference / name), state(killed / name))), (name, found[:10])
    journals = {path.stem for path in reference.glob('*.jsonl')}
    pairs = [(journal(reference, name), journal(killed, name)) for name in journals]
    for expected, seen in [*pairs, (logged(reference), logged(killed))]:
        assert all(len(lines) == 1 for lines in expected.values())
        assert expected == seen, {key: seen.get(key) for key in expected if seen.get(key) != expected[key]}


def survive(task: str, folder: Path, total: int, kills: int, seed: int = 0) -> dict[str, int]:
    """Train once without and once with kills, and compare.

    Returns:
        dict: Number of kills of each kind, of iterations, and of repeated iterations.
    """
    make_data(folder / 'data')
    log, reference, killed = folder / 'log', folder / 'reference', folder / 'killed'
    assert run(config(task, folder / 'data', reference, total), log, resume=False) == 0, log.read_text()
    killer, counts = Killer(seed), dict.fromkeys(WAYS, 0)
    cfg = config(task, folder / 'data', killed, total)
    for way, _ in zip(cycle(WAYS), track(range(kills), task), strict=False):
        status = killer.run(cfg, log, way)
        assert status in _EXPECTED, (status, log.read_text()[-3000:])
        counts[way] += status != 0
        if killed.is_dir():
            check_files(killed)
    assert run(cfg, log) == 0, log.read_text()[-3000:]
    compare(reference, killed)
    lines = len((killed / 'journal_0.jsonl').read_text().splitlines())
    return counts | dict(iterations=len(journal(killed)), run_again=lines - len(journal(killed)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=24, help='kills per task (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='random seed (default: %(default)s)')
    parser.add_argument('--tasks', nargs='+', choices=TASKS, default=TASKS, help='trainings to kill (default: all)')
    args = parser.parse_args()
    for task in args.tasks:
        folder = Path(tempfile.mkdtemp(prefix='kill_and_resume_'))
        total = args.kills * (2 if task == 'classification' else 6)  # long enough for all kills
        print(task, survive(task, folder, total, args.kills, args.seed), 'identical')
        shutil.rmtree(folder)


if __name__ == '__main__':
    main()
