"""tools/demo.py with two iterations, in a folder of its own."""

import os
import re
import subprocess
import sys

from conftest import ROOT


def test_demo(few_tiles, tmp_path):
    for name in ('tools', 'configs'):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/blue_marble').symlink_to(few_tiles)
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', COLUMNS='120')
    command = [sys.executable, 'tools/demo.py', '--iters', '2', '--work-dir', 'out']
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, encoding='utf-8')
    assert done.returncode == 0, done.stderr[-2000:]
    for model in ('ViTTM-T 16/32', 'ViT-T/32', 'ViT-T/16'):
        row = rf'│ {re.escape(model)} +│ +[\d.]+ │ +\d+ │\n'  # mIoU, ms
        assert re.search(row, done.stdout), done.stdout[-2000:]
    assert 'GMACs' in (tmp_path / 'out/fps.txt').read_text()
    assert 'Warning' not in done.stderr and 'Traceback' not in done.stderr
    assert len(done.stdout.splitlines()) < 120, done.stdout
    assert (tmp_path / 'out/predictions.png').is_file()
