"""The report tool: what is measured is tests/test_benchmark.py's; here its arguments and the interrupted run."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from mmvittm.apis.cli import run_tool
from mmvittm.benchmark import markdown

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


@pytest.fixture
def report() -> dict:
    machine = dict(gpu=None, cpu='Fast CPU', cores=2, cpu_isa='AVX512', threads=2, versions={}, date='2026-11-22')
    return dict(machine=machine, settings=dict(train=False), runs=[], results=[], growth=[])


@pytest.fixture
def called(report, tmp_path, monkeypatch) -> list[list[str]]:
    """All but one measurement are kept from before; the commands that are run."""
    (tmp_path / 'kept').mkdir()
    for name in set(runpy.run_path(str(TOOL))['MEASUREMENTS']) - {'growth'}:
        (tmp_path / 'kept' / f'{name}.json').write_text(json.dumps(report))
    commands = []

    def run(command, **_):
        commands.append(command)
        Path(command[-1]).write_text(json.dumps(report))
        return type('Done', (), dict(returncode=0))

    monkeypatch.setattr('subprocess.run', run)
    monkeypatch.setattr('mmvittm.benchmark.markdown.pictures', lambda *_: [])
    monkeypatch.setattr('mmvittm.benchmark.markdown.section', lambda name, _: f'### {name}')
    monkeypatch.setattr('mmvittm.benchmark.markdown.SPEEDS', ())
    return commands


def test_a_finished_run_writes_the_page_from_what_it_kept(called, tmp_path, monkeypatch, capsys):
    names = runpy.run_path(str(TOOL))['MEASUREMENTS']
    run_here(monkeypatch, '--out-dir', tmp_path / 'kept', '--doc', tmp_path / 'docs' / 'page.md')
    assert len(called) == 1, 'the rest was kept'
    assert 'shape=512,768,1024,1280' in called[0]
    page = (tmp_path / 'docs' / 'page.md').read_text()
    assert page.count('### ') == len(names)
    assert page.count(markdown.BEGIN) == page.count(markdown.END) == 1
    assert f'{len(names)} of {len(names)} measurements' in capsys.readouterr().out


def test_the_page_of_the_project_comes_with_the_table_of_the_readme(called, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'README.md').write_text(f'# Ours\n\n{markdown.BEGIN}\nold\n{markdown.END}\n\nAfter.\n')
    run_here(monkeypatch, '--out-dir', 'kept')
    assert '## Targets' in (tmp_path / 'docs' / 'performance.md').read_text()
    readme = (tmp_path / 'README.md').read_text()
    assert readme.startswith(f'# Ours\n\n{markdown.BEGIN}\n\n| ViT-B/16 : ViTTM-B 28/28 |')
    assert 'Measured on: Fast CPU' in readme
    assert readme.endswith(f'{markdown.END}\n\nAfter.\n')
    assert 'old' not in readme


def test_a_readme_that_cannot_be_written_is_found_before_the_work(called, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'README.md').mkdir()
    with pytest.raises(SystemExit, match=r'error: cannot write README.md: it is a folder'):
        run_here(monkeypatch, '--out-dir', 'kept')
    assert not called
    assert not list((tmp_path / 'docs').iterdir())
