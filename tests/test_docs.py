"""The site of the documentation, its generated parts and the tutorial."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.tools import load_tool

from mmvittm.errors import UserError

ROOT = Path(__file__).parents[1]
DOCS = ROOT / 'docs'


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The site, built in a few seconds; a warning is an error."""
    pytest.importorskip('mkdocs', reason='needs the extra `docs`')
    out = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(out)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ, NO_MKDOCS_2_WARNING='1')
    )
    assert done.returncode == 0, done.stderr
    return out


def test_every_page_is_on_the_site(site):
    pages = [
        path.relative_to(DOCS).with_suffix('.html') for path in DOCS.rglob('*') if path.suffix in ('.md', '.ipynb')
    ]
    assert len(pages) > 15
    assert all((site / page).is_file() for page in (*pages, 'index.html', 'changelog.html', 'contributing.html'))


def test_formulas_are_mathml(site):
    for page in ('method.html', 'memory.html', 'api/parts.html'):
        text = (site / page).read_text()
        assert text.count('<math ') > 2
        assert 'arithmatex' not in text
        assert '.. math::' not in text


def test_reference_describes_arguments(site):
    text = (site / 'api' / 'models.html').read_text()
    assert 'For the position embeddings' not in text
    assert 'Height and width in pixels that the position embeddings are made for' in text
    assert ':class:' not in text


def test_links_to_the_repository_lead_to_github(site):
    assert (
        'href="https://github.com/mmvittm/mmvittm/blob/main/results/README.md"'
        in (site / 'performance.html').read_text()
    )
    home = (site / 'index.html').read_text()
    assert 'href="method.html"' in home
    assert 'src="images/architecture.svg"' in home


@pytest.fixture
def model_zoo(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / 'tools')
    return runpy.run_path(str(ROOT / 'tools' / 'model_zoo.py'))


def test_model_zoo_agrees_with_results(model_zoo):
    assert model_zoo['table']() in (ROOT / 'docs/model-zoo.md').read_text(), 'run `make docs`'


def test_answers_agree_with_results(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    answers, page = load_tool('study_answers.py'), tmp_path / 'study.md'
    page.write_text((DOCS / 'study.md').read_text())
    drawn = []
    monkeypatch.setattr(answers, 'PAGE', page)
    monkeypatch.setattr(answers, 'draw', lambda tables, path: drawn.append(tables))
    monkeypatch.setattr('sys.argv', ['study_answers.py'])
    answers.main()
    assert page.read_text() == (DOCS / 'study.md').read_text(), 'run `make docs`'
    assert len(drawn[0]) == len(answers.PLAN)


def test_a_page_without_its_second_mark_is_left(tmp_path):
    pages, page = load_tool('pages.py'), tmp_path / 'page.md'
    page.write_text('# Title\n\n<!-- begin generated -->\nold\n\nWords.\n')
    with pytest.raises(UserError, match='has <!-- begin generated --> without <!-- end generated --> after it'):
        pages.write_section(page, 'new')
    assert page.read_text().endswith('Words.\n')


@pytest.mark.parametrize(
    ('shape', 'speed'), [([256, 256], '12 | 1.96 | 8.5 | – | AMD EPYC'), ([512, 512], '– | – | – | – | –')]
)
def test_model_zoo_takes_complete_trainings_of_each_length(model_zoo, tmp_path, monkeypatch, shape, speed):
    config = 'vittm/vittm-t_16-32_upernet_1xb8-demo_blue-marble-256x256.py'
    (tmp_path / 'configs/studies').mkdir(parents=True)
    (tmp_path / 'configs/vittm').mkdir()
    (tmp_path / 'configs' / config).write_text('crop_size = (256, 256)')
    unfinished, varied = dict(repeats=dict(name='fold', values=[0, 1, 2])), dict(model_options=dict(A={}))
    for name, steps, more in (('lakes', 4, {}), ('seas', 8, {}), ('unfinished', 9, unfinished), ('varied', 9, varied)):
        study = (
            dict(metric='mIoU', configs=dict(A=config), repeats=dict(name='fold', values=[0, 1]), shape=shape) | more
        )
        (tmp_path / f'configs/studies/{name}.yml').write_text(json.dumps(study))
        (tmp_path / f'results/{name}').mkdir(parents=True)
        (tmp_path / f'results/{name}/runs.csv').write_text(f'model,fold,mIoU,length\nA,0,50,{steps}\nA,1,52,{steps}\n')
        (tmp_path / f'results/{name}/speed.csv').write_text(
            'model,ms,GMACs,parameters,machine\nA,12.4,1.96,8.5,AMD EPYC\n'
        )
    monkeypatch.chdir(tmp_path)
    [row] = [line for line in model_zoo['table']().splitlines() if 'demo' in line]
    lakes, seas = (f'51.0 (38.3 to 63.7; 2 folds, {steps} steps)' for steps in (4, 8))
    assert row.endswith(f'| Blue Marble 256×256 | {lakes}; {seas} | {speed} |')


def test_tutorial_runs(few_tiles, tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip('nbclient'), pytest.importorskip('nbformat')
    pytest.importorskip('onnxruntime')
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    monkeypatch.setenv('JUPYTER_RUNTIME_DIR', str(tmp_path))
    monkeypatch.setenv('IPYTHONDIR', str(tmp_path / 'ipython'))
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'blue_marble').symlink_to(few_tiles)
    notebook = nbformat.read(DOCS / 'tutorial.ipynb', 4)
    where = dict(metadata=dict(path=str(tmp_path)))
    nbclient.NotebookClient(notebook, timeout=600, kernel_name='python3', resources=where).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
    shares = next(output for output in cells[-1].outputs if output.output_type == 'execute_result')
    assert "'water'" in shares['data']['text/plain']
    assert len(list((tmp_path / 'work_dirs/tutorial').glob('memory.*'))) == 2
