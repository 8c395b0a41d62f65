"""tools/scene_benchmark.py: rows in their own processes with limits, resuming, and the page made from the CSV."""

import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers.deployment import ROOT
from mmengine.fileio import load

from mmvittm.apis.config import load_config
from mmvittm.errors import UserError

ROWS = [
    ('ViTTM-T/16', 'chunked', 1024, 'done', 1.0, 1.0),
    ('ViTTM-T/16', 'chunked', 4096, 'done', 9.0, 1.4),
    ('ViTTM-T/16', 'chunked', 8192, 'done', 44.0, 2.5),
    ('ViT-T/16', 'whole', 1024, 'done', 2.0, 1.2),
    ('ViT-T/16', 'whole', 4096, 'time limit', None, None),
    ('ViTTM-T/16', 'chunked', 4096, 'done', 12.0, 1.5),  # two more rounds
    ('ViTTM-T/16', 'chunked', 4096, 'done', 10.0, 1.3),
]


@pytest.fixture
def files(tmp_path):
    """Options that keep the tool within a folder; the page has text around the generated part."""
    page = tmp_path / 'docs' / 'page.md'
    page.parent.mkdir()
    page.write_text('# Title\n\nBefore.\n\n<!-- begin generated -->\nold\n<!-- end generated -->\n\nAfter.\n')
    return ['--doc', page, '--scenes', tmp_path / 'scenes', '--out', tmp_path / 'rows.csv', '--threads', 1]


@pytest.fixture
def tool(monkeypatch):
    """The tool as a module, with one model at two small sizes as its plan."""
    monkeypatch.syspath_prepend(ROOT / 'tools')
    import scene_benchmark

    row = dict(model='tiny', config='configs/_base_/models/scene_vittm-t.py', mode='chunked', sizes=[256, 512])
    monkeypatch.setattr(scene_benchmark, 'PLAN', [row])
    monkeypatch.chdir(ROOT)
    return scene_benchmark


def run(tool, monkeypatch, *args):
    monkeypatch.setattr(sys, 'argv', ['scene_benchmark.py', *map(str, args)])
    tool.main()


def results(path):
    columns = ['model', 'mode', 'size', 'status', 'seconds', 'peak_gb']
    pd.DataFrame(ROWS, columns=columns).assign(threads=2).to_csv(path, index=False)
    return path


def test_page_from_csv(tool, files, tmp_path, monkeypatch):
    run(tool, monkeypatch, *files, '--render', results(tmp_path / 'r.csv'))
    page = Path(files[1]).read_text()
    assert page.startswith('# Title\n\nBefore.')
    assert page.endswith('After.\n')
    assert 'old' not in page
    # 10 s for 16.8 megapixels, 44 s for 67.1: 0.596 and 0.656 s/MP, 4.8 % from their mean
    lines = page.splitlines()
    chunked = '1 s, 0.95 s/MP, 1 GB | 10 s (9–12), 0.6 s/MP, 1.5 GB | 44 s, 0.66 s/MP, 2.5 GB | 5 % |'
    assert f'| ViTTM-T/16 | chunked | {chunked}' in lines
    assert '| ViT-T/16 | whole | 2 s, 1.9 s/MP, 1.2 GB | – (time limit) |  | – |' in lines
    assert (tmp_path / 'docs' / 'images' / 'scenes.png').stat().st_size > 10_000


def test_rows_are_measured_once(tool, files, monkeypatch, capsys):
    out = files[5]
    run(tool, monkeypatch, *files, '--memory-only', '--max-size', 256)
    first = pd.read_csv(out)
    assert list(first['size']) == [256]
    assert first.status[0] == 'done'
    assert 0.1 < first.peak_gb[0] < 4
    assert first.seconds.isna().all()
    # a row that is measured does not run again; the next one has no time to finish, and that is kept too
    run(tool, monkeypatch, *files, '--memory-only', '--limit', 1e-4)
    second = pd.read_csv(out)
    assert list(second.status) == ['done', 'time limit']
    assert second.peak_gb[0] == first.peak_gb[0]


def test_rounds(tool, files, monkeypatch):
    run(tool, monkeypatch, *files)
    for _ in range(2):  # the second call finds nothing left to measure
        run(tool, monkeypatch, *files, '--rounds', 2)
        frame = pd.read_csv(files[5])
        assert list(frame['size']) == [256, 512, 256, 512]
        assert frame.seconds.notna().all()


def test_rounds_of_no_times(tool, files, monkeypatch):
    with pytest.raises(UserError, match='--rounds repeats times, and --memory-only measures none'):
        run(tool, monkeypatch, *files, '--memory-only', '--rounds', 2)


def test_memory_limit_is_a_result(tool, files, monkeypatch):
    run(tool, monkeypatch, *files, '--max-size', 256, '--memory', 0.01)
    assert list(pd.read_csv(files[5]).status) == ['memory limit']


def test_larger_sizes_are_not_tried_in_vain(tool, tmp_path):
    frame = pd.read_csv(results(tmp_path / 'r.csv'))
    rows = [dict(model='ViT-T/16', mode='whole', size=size) for size in (1024, 2048, 4096, 8192)]
    assert [tool.is_settled(row, frame, False) for row in rows] == [True, False, True, True]
    row = dict(model='ViTTM-T/16', mode='chunked', size=4096)
    assert [tool.is_settled(row, frame, False, rounds) for rounds in (3, 4)] == [True, False]


def test_every_planned_config_exists():
    for path in {row['config'] for row in load(ROOT / 'tools/scene_benchmark.yaml')}:
        assert load_config(ROOT / path).model.test_cfg.crop_size
