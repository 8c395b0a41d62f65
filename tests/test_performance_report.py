"""tools/performance_report.py: its arguments, an interrupted run, and the committed pages against the committed CSV."""

import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from mmvittm.apis.cli import run_tool

ROOT = Path(__file__).parents[1]
TOOL = ROOT / 'tools' / 'performance_report.py'
[NAME] = re.findall(r'\[(fps-.*?csv)\]', (ROOT / 'docs/performance.md').read_text())
RESULTS = ROOT / 'results/speed' / NAME
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(TOOL.parent)
    MODULE = runpy.run_path(str(TOOL))
MEASUREMENTS = MODULE['MEASUREMENTS']


def run_here(monkeypatch, *args) -> None:
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, args)])
    monkeypatch.syspath_prepend(TOOL.parent)
    run_tool(runpy.run_path(str(TOOL))['main'])


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (['--out-dir', 'README.md/results'], 'cannot write to README.md/results: Not a directory'),
        (['--render', 'missing.csv'], 'results file not found: missing.csv'),
    ],
)
def test_bad_input_is_one_sentence(options, sentence, checkout, monkeypatch):
    with pytest.raises(SystemExit, match=f'error: {sentence}') as stopped:
        run_here(monkeypatch, *options)
    assert '\n' not in stopped.value.code
    assert sorted(path.name for path in checkout.iterdir()) == ['README.md', 'docs', 'results']


def test_measurements_name_configs_that_exist():
    for name in MEASUREMENTS:
        words = MODULE['arguments'](name, 2)
        configs = [word for word in words if word.startswith('configs/')]
        assert len(configs) > 1
        assert all((ROOT / config).is_file() for config in configs)


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A folder with the repository's pages and results, to run the tool in."""
    for path in ('docs/performance.md', 'README.md', RESULTS.relative_to(ROOT)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_committed_pages_agree_with_the_results(checkout, monkeypatch):
    run_here(monkeypatch, '--render', RESULTS.relative_to(ROOT))
    for page in ('docs/performance.md', 'README.md'):
        assert (checkout / page).read_text() == (ROOT / page).read_text()
    for plot in ('latency.png', 'ratios.png'):
        assert (checkout / 'docs' / 'images' / plot).stat().st_size > 5000
        assert (ROOT / 'docs' / 'images' / plot).is_file()


def test_table_shows_the_numbers_of_the_results(checkout, monkeypatch):
    frame = pd.read_csv(RESULTS)
    changed = frame['measurement'].eq('upernet-fp32') & frame['config'].str.contains('vittm')
    frame.loc[changed, ['time_ms.median', 'speed_ratio.median']] = [1000.4, 2.997]
    frame.loc[changed, 'date'] = '2027-01-01'
    frame.to_csv('changed.csv', index=False)
    run_here(monkeypatch, '--render', 'changed.csv')
    readme = (checkout / 'README.md').read_text()
    [line] = [line for line in readme.splitlines() if line.startswith('| UperNet, 512² or 504² | torch fp32 |')]
    assert line.count(' 3.00× |') == changed.sum()
    page = (checkout / 'docs/performance.md').read_text()
    assert '| torch fp32 | ViTTM-B 28/28 | 107.9 | 1000 | 3.00 |' in page
    assert '; mmvittm 0.2.0, 2026-11-26 and 2027-01-01; ' in page
    around = re.compile('<!-- begin generated -->.*<!-- end generated -->', re.DOTALL)
    assert around.split(readme) == around.split((ROOT / 'README.md').read_text())


def report(name: str, ms: float) -> dict:
    """Output of tools/fps_benchmark.py, as far as the report tool reads it."""
    words = MODULE['arguments'](name, 4)
    ratio = dict(median=2.0, low=1.9, high=2.1)
    row = dict(
        mode='torch fp32', checkpoint=None, parameters=1, macs_per_image=1, peak_memory=1, time_ms=dict(median=ms),
        speed_ratio=ratio, speed_ratio_same_mode=ratio, shape=[1, 3, 8, 8], gemms=[], times_ms=[],
    )  # fmt: skip
    rows = [row]
    if '--sweep' in words:
        rows = [row | dict(swept=dict(size=side**2, value=side, unit='pixels')) for side in (8, 16)]
    versions = dict(torch='3.0.0+cpu', mmvittm='9.9.9')
    machine = dict(cpu='Fast CPU @ 3 GHz', cores=2, cpu_isa='AVX2', threads=4, versions=versions, date='2027-01-01')
    configs = [word for word in words if word.startswith('configs/')]
    return dict(machine=machine, results=[row | dict(config=config) for row in rows for config in configs])


@pytest.fixture
def called(tmp_path, monkeypatch) -> list[list[str]]:
    """All but one measurement are kept from before; the commands that are run."""
    (tmp_path / 'kept').mkdir()
    for name in MEASUREMENTS.keys() - {'train-fp32'}:
        (tmp_path / 'kept' / f'{name}.json').write_text(json.dumps(report(name, 1.0)))
    commands = []

    def run(command, **_):
        commands.append(command)
        out = Path(command[-1])
        out.write_text(json.dumps(report(out.stem, 2.0)))
        return type('Done', (), dict(returncode=0))

    monkeypatch.setattr('subprocess.run', run)
    return commands


def test_interrupted_run_measures_what_is_missing(called, checkout, monkeypatch):
    run_here(monkeypatch, '--out-dir', 'kept', '--threads', 4)
    assert len(called) == 1, 'the rest was kept'
    assert '--train' in called[0] and '--threads 4' in ' '.join(called[0])
    path = checkout / 'results' / 'speed' / 'fps-cpu-fast-cpu-3-ghz-avx2-4t-torch3.0.0.csv'
    frame = pd.read_csv(path)
    assert list(frame['measurement'].unique()) == list(MEASUREMENTS)
    assert frame['time_ms.median'].tolist() == [2.0 if name == 'train-fp32' else 1.0 for name in frame['measurement']]
    assert set(frame['version']) == {'9.9.9'}
    for page, link in (
        ('README.md', f'https://github.com/mmvittm/mmvittm/blob/main/results/speed/{path.name}'),
        ('docs/performance.md', f'../results/speed/{path.name}'),
    ):
        assert (
            f'Measured on Fast CPU @ 3 GHz, 2 cores, AVX2, 4 threads; mmvittm 9.9.9, 2027-01-01; [{path.name}]({link})'
            in (checkout / page).read_text()
        )


def test_results_of_two_machines_are_not_mixed(called, checkout, monkeypatch):
    other = report('growth', 1.0)
    other['machine']['threads'] = 2
    (checkout / 'kept/growth.json').write_text(json.dumps(other))
    with pytest.raises(SystemExit, match=r'kept has results for .*-2t-.* and .*-4t-.*: delete those'):
        run_here(monkeypatch, '--out-dir', 'kept')


def test_new_rows_replace_those_of_the_same_name(called, checkout, monkeypatch):
    run_here(monkeypatch, '--out-dir', 'kept')
    shutil.rmtree('kept')
    run_here(monkeypatch, '--out-dir', 'kept', '--only', 'growth', 'growth-pooled')
    assert len(called) == 3
    [path] = (checkout / 'results/speed').glob('*fast-cpu*.csv')
    frame = pd.read_csv(path)
    assert list(frame['measurement'].unique()) == list(MEASUREMENTS)
    assert set(frame.loc[frame['time_ms.median'] == 2.0, 'measurement']) == {'growth', 'train-fp32', 'growth-pooled'}


def test_first_measurement_of_a_machine(called, checkout, monkeypatch):
    run_here(monkeypatch, '--out-dir', 'new', '--only', 'growth')
    [path] = (checkout / 'results/speed').glob('*fast-cpu*.csv')
    assert set(pd.read_csv(path)['measurement']) == {'growth'}
    assert [plot.name for plot in (checkout / 'docs/images').iterdir()] == ['latency.png']


def test_dtypes_that_the_cpu_lacks_are_skipped(called, checkout, monkeypatch, capsys):
    monkeypatch.setattr('torch.backends.cpu.get_cpu_capability', lambda: 'AVX2')
    run_here(monkeypatch, '--out-dir', 'kept', '--only', 'backbone-bf16')
    assert not called
    assert 'skipped: needs a CPU with AVX512, and this one has AVX2' in capsys.readouterr().out


def test_failed_measurements_are_named(called, checkout, monkeypatch):
    monkeypatch.setattr('subprocess.run', lambda *_, **__: type('Done', (), dict(returncode=1)))
    with pytest.raises(SystemExit, match='error: these measurements failed: train-fp32, see the logs in kept'):
        run_here(monkeypatch, '--out-dir', 'kept')
    assert '9.9.9' in (checkout / 'README.md').read_text(), 'the others are written'
    with pytest.raises(SystemExit, match='error: no results in new: every measurement failed, see the logs there'):
        run_here(monkeypatch, '--out-dir', 'new', '--only', 'growth')


def test_unwritable_page_is_found_before_the_work(called, checkout, monkeypatch):
    shutil.rmtree('docs')
    Path('docs').touch()
    with pytest.raises(SystemExit, match='error: cannot write to docs: '):
        run_here(monkeypatch, '--out-dir', 'kept')
    assert not called
