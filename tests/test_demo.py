"""tools/demo.py with two iterations, in a folder of its own."""

import re
from types import SimpleNamespace

from conftest import ROOT
from helpers.tools import load_tool


def test_demo(run_tool, few_tiles, tmp_path, monkeypatch, capsys):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/blue_marble').symlink_to(few_tiles)
    monkeypatch.chdir(tmp_path)
    demo = load_tool('demo.py')
    errors = []

    def run(command, stdout, check):
        tool = (tmp_path / command[1]).resolve().relative_to(ROOT / 'tools')
        done = run_tool(tool, *command[2:])
        print(done.stdout, file=stdout)
        errors.append(done.stderr)
        return done

    monkeypatch.setattr(demo, 'subprocess', SimpleNamespace(run=run))
    monkeypatch.setattr('sys.argv', ['demo.py', '--iters', '2', '--work-dir', 'out'])
    demo.main()
    printed, errors = capsys.readouterr().out, ''.join(errors)
    for model in ('ViTTM-T 16/32, focused attention', 'ViT-T/32', 'ViT-T/16'):
        row = rf'│ {re.escape(model)} +│ +[\d.]+ │ +\d+ │\n'  # mIoU, ms
        assert re.search(row, printed), printed[-2000:]
    assert 'GMACs' in (tmp_path / 'out/fps.txt').read_text()
    assert 'Warning' not in errors and 'Traceback' not in errors, errors
    assert len(printed.splitlines()) < 120, printed
    assert (tmp_path / 'out/predictions.png').is_file()
