"""The report tool: what is measured is tests/test_benchmark.py's; here its arguments and the interrupted run."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from mmvittm.benchmark import markdown
from mmvittm.utils.cli import run_tool

TOOL = Path(__file__).parents[1] / 'tools' / 'performance_report.py'


def run_here(monkeypatch, *args) -> None:
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, args)])
    run_tool(runpy.run_path(str(TOOL))['main'])


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (['--only', 'growht'], "unknown measurement 'growht': choose one of classifier-b1-fp32, "),
        (['--doc', '{file}/page.md'], 'cannot write .*page.md'),
        (['--out-dir', '{file}/results'], 'cannot write .*results'),
        (['--threads', '0'], '--threads must be a whole number above 0, not 0'),
    ],
)
def test_bad_input_is_one_sentence(options, sentence, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    doc = [] if '--doc' in options else ['--doc', tmp_path / 'page.md']
    options = [option.format(file=tmp_path / 'file') for option in options]
    with pytest.raises(SystemExit, match=f'error: {sentence}') as stopped:
        run_here(monkeypatch, *options, *doc)
    assert '\n' not in stopped.value.code
    assert [path.name for path in tmp_path.iterdir()] == ['file']


def test_a_finished_run_writes_the_page_from_what_it_kept(tmp_path, monkeypatch, capsys):
    names = runpy.run_path(str(TOOL))['MEASUREMENTS']
    (tmp_path / 'kept').mkdir()
    machine = dict(gpu=None, cpu='Fast CPU', cores=2, cpu_isa='AVX512', threads=2, versions={}, date='2026-11-22')
    report = dict(machine=machine, settings=dict(train=False), runs=[], results=[], growth=[])
    for name in set(names) - {'growth'}:
        (tmp_path / 'kept' / f'{name}.json').write_text(json.dumps(report))
    called = []

    def run(command, **_):
        called.append(command)
        Path(command[-1]).write_text(json.dumps(report))
        return type('Done', (), dict(returncode=0))

    monkeypatch.setattr('subprocess.run', run)
    monkeypatch.setattr('mmvittm.benchmark.markdown.pictures', lambda *_: [])
    monkeypatch.setattr('mmvittm.benchmark.markdown.section', lambda name, _: f'### {name}')
    run_here(monkeypatch, '--out-dir', tmp_path / 'kept', '--doc', tmp_path / 'docs' / 'page.md')
    assert len(called) == 1, 'the rest was kept'
    assert 'shape=512,768,1024,1280' in called[0]
    page = (tmp_path / 'docs' / 'page.md').read_text()
    assert page.count('### ') == len(names)
    assert page.count(markdown.BEGIN) == page.count(markdown.END) == 1
    assert f'{len(names)} of {len(names)} measurements' in capsys.readouterr().out
