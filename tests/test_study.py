"""The ablation configs, and tools/study.py on runs of a few iterations."""

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stdout
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pandas as pd
import pytest
import torch
import yaml
from conftest import ENVIRONMENT
from helpers.preloaded import run_script
from helpers.survival import config, make_data
from helpers.tools import load_tool
from mmengine.config import Config
from rich.console import Console
from scipy import stats

import mmvittm.models
from mmvittm.apis.config import build_model, load_config
from mmvittm.errors import UserError
from mmvittm.registry import FUSIONS, RW_HEADS
from mmvittm.weights import load_checkpoint_file

ROOT = Path(__file__).parents[1]
ABLATIONS = {path.stem: path for path in (mmvittm.configs_dir() / 'vittm' / 'ablations').glob('*.py')}
DEMO = 'vittm/vittm-t_16-32_upernet_1xb8-demo_blue-marble-256x256.py'
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


@pytest.fixture(scope='module')
def configs():
    return {name: load_config(path) for name, path in ABLATIONS.items()}


def test_every_head_meets_every_fusion(configs):
    heads, fusions = (
        {
            component.__name__
            for component in registry.module_dict.values()
            if component.__module__.startswith('mmvittm.')
        }
        for registry in (RW_HEADS, FUSIONS)
    )
    backbones = [cfg.model.backbone for name, cfg in configs.items() if name.startswith(('head-', 'baseline'))]
    pairs = [(backbone.rw_head.type, backbone.fusion.type) for backbone in backbones]
    assert sorted(pairs) == sorted(product(heads, fusions))
    assert len(pairs) == 21


def test_ablations_differ_in_the_backbone_alone(configs):
    backbones = [cfg.model.backbone for cfg in configs.values()]
    assert all(backbones.count(backbone) == 1 for backbone in backbones)
    for cfg in configs.values():
        cfg = cfg.to_dict()
        cfg['model']['backbone'] = configs['baseline'].to_dict()['model']['backbone']
        cfg.pop('find_unused_parameters', None)  # of the one pair that leaves the process embedding without gradient
        assert cfg == configs['baseline'].to_dict()


@pytest.mark.parametrize('name', [name for name in ABLATIONS if '-tokens-' in name])
def test_the_name_says_the_number_of_tokens(configs, name):
    backbone = build_model(configs[name]).backbone
    kind, _, number = name.partition('-tokens-')
    assert getattr(backbone, f'{kind}_embed').pos_embed.shape[1] == int(number)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    make_data(folder)
    return folder


def write_config(path, data, **options):
    """A training of 2 iterations, with a validation after each."""
    cfg = config('segmentation', data, path.parent, 2, train_cfg__val_interval=1, **options)
    cfg.test_dataloader, cfg.test_evaluator, cfg.test_cfg = cfg.val_dataloader, cfg.val_evaluator, {}
    cfg.dump(path)
    return str(path)


def write_study(path, configs, iterations=2, **more):
    options = {
        'train_cfg.max_iters': iterations,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'default_hooks.checkpoint.interval': 1,
        'default_hooks.checkpoint.save_best': None,
        'default_hooks.logger.interval': 1,
        'custom_hooks': [dict(type='mmvittm.TrainingDynamicsHook', interval=1)],
        **{name.replace('__', '.'): value for name, value in more.items()},
    }
    content = dict(
        title='Tiny', metric='mIoU', configs=configs, options=options,
        repeats=dict(name='seed', values=[0], keys=['randomness.seed']),
        comparisons=[['A', 'B']] if len(configs) > 1 else [], scalars=['loss', 'backbone/process_norm'],
    )  # fmt: skip
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def forked_study_tool(run_tool, monkeypatch):
    """tools/study.py, whose trainings and tests run in processes that have imported the libraries."""

    class Forked:
        """Stands in for ``subprocess.Popen``."""

        def __init__(self, command, **_):
            done = run_tool(Path(command[1]).name, *command[2:])
            lines = (done.stdout + done.stderr).splitlines(keepends=True)
            self.stdout, self.returncode = lines, done.returncode

        def wait(self):
            pass

    tool = load_tool('study.py')
    monkeypatch.setattr(tool, 'subprocess', SimpleNamespace(**vars(subprocess) | dict(Popen=Forked)))
    return tool


def arguments(folder):
    return ['--results', folder / 'results', '--work-dir', folder / 'work', '--docs', folder / 'study.md']


@pytest.fixture(scope='module')
def studied(run_tool, data, tmp_path_factory):
    """The folder, error and output of a study with a config between two others that does not build."""
    folder = tmp_path_factory.mktemp('study')
    configs = dict(
        A=Path(write_config(folder / 'a.py', data)).name,  # from the folder of the study
        broken=write_config(folder / 'broken.py', data, model__backbone__rw_heads='CrossAttention'),
        B=write_config(folder / 'b.py', data, model__backbone__fusion=dict(type='EraseFusion')),
    )
    study = write_study(folder / 'tiny.yml', configs)

    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as monkeypatch, redirect_stdout(printed):
        tool = forked_study_tool(run_tool, monkeypatch)
        sentence = call(tool, monkeypatch, study, *arguments(folder))
    return folder, study, sentence, printed.getvalue()


def test_runs_are_recorded(studied):
    folder, *_ = studied
    runs = pd.read_csv(folder / 'results/tiny/runs.csv').set_index('model')
    assert list(runs.index) == ['A', 'B']
    assert set(runs.seed) == {0}
    assert set(runs.length) == {2}
    for model, run in runs.iterrows():
        [metrics] = (folder / 'work/tiny' / model).glob(f'0-{run.hash}/test/metrics.json')
        assert run.mIoU == pytest.approx(yaml.safe_load(metrics.read_text())['mIoU'], abs=1e-3)
        assert 'torch=' in run.versions
    curves = pd.read_csv(folder / 'results/tiny/curves.csv')
    assert list(zip(curves.model, curves.step, strict=True)) == [('A', 1), ('A', 2), ('B', 1), ('B', 2)]
    assert curves.mIoU[3] == pytest.approx(runs.mIoU['B'], abs=0.01)


def test_times_of_a_study_that_has_not_run(study_tool, data, tmp_path, monkeypatch):
    study = write_study(tmp_path / 'timed.yml', dict(A=write_config(tmp_path / 'a.py', data)))

    def measure(tools, folder, on_line, tool, *args):
        result = dict(time_ms=dict(median=3), macs_per_image=4e9, parameters=5e6)
        machine = dict(cpu='abacus', cpu_isa='wood', threads=1)
        Path(args[-1]).write_text(json.dumps(dict(results=[result], machine=machine)))

    monkeypatch.setattr(study_tool.Tools, 'call', measure)
    monkeypatch.setattr(sys, 'argv', ['study.py', str(study), '--time', *map(str, arguments(tmp_path))])
    study_tool.main()
    [row] = pd.read_csv(tmp_path / 'results/timed/speed.csv').to_dict('records')
    assert row == dict(model='A', ms=3, GMACs=4, parameters=5, machine='abacus, wood', threads=1)


def test_commit_is_that_of_a_clone(study_tool, tmp_path):
    """git would describe the repository that an environment lies in."""
    for path in ('.git', 'tools', 'venv/site-packages/tools'):
        (tmp_path / path).mkdir(parents=True)
    done = SimpleNamespace(stdout='1a2b3c\n')
    with mock.patch.object(study_tool.subprocess, 'run', return_value=done):
        assert study_tool.commit_of(tmp_path / 'tools') == '1a2b3c'
        assert study_tool.commit_of(tmp_path / 'venv/site-packages/tools') == ''


def test_page_of_ones_own_study(studied, study_tool, monkeypatch):
    """It lies beside the CSV files, not in docs/study.md of wherever the tool is called."""
    folder, study, *_ = studied
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, 'argv', ['study.py', str(study), '--report', '--results', str(folder / 'results')])
    study_tool.main()
    assert '## Tiny' in (folder / 'results/tiny/README.md').read_text() and not (folder / 'docs').exists()


def test_scalars_of_the_log_are_recorded(studied):
    folder, *_ = studied
    scalars = pd.read_csv(folder / 'results/tiny/scalars.csv')
    assert list(zip(scalars.model, scalars.step, strict=True)) == [('A', 1), ('A', 2), ('B', 1), ('B', 2)]
    [log] = folder.glob('work/tiny/B/*/train/*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for name in ('loss', 'backbone/process_norm/block_00', 'backbone/process_norm/block_01'):
        wanted = [line[name] for line in lines if name in line]
        assert list(scalars[scalars.model == 'B'][name]) == pytest.approx(wanted, rel=1e-3)
    assert not any('memory_norm' in name for name in scalars)


def test_a_failed_run_stops_no_other(studied):
    *_, sentence, printed = studied
    assert sentence.startswith('error: broken cannot be built: config ')
    assert "unexpected keyword argument 'rw_heads', did you mean 'rw_head'?" in sentence
    lines = printed.splitlines()
    said, trained = (
        next(i for i, line in enumerate(lines) if text in line) for text in ('broken cannot', ' A, seed 0: ')
    )
    assert said < trained, 'before the others are trained'


def test_the_page_shows_the_study(studied):
    folder, *_ = studied
    page = (folder / 'study.md').read_text()
    assert '2 of 3 runs, 2 iterations each' in page
    assert '| A against B | 1 | ' in page
    for plot in ('curves', 'scalars'):
        assert (folder / f'images/study_tiny_{plot}.png').is_file()


def test_a_model_starts_from_its_first_stage(run_tool, data, tmp_path, monkeypatch):
    first = write_config(tmp_path / 'first.py', data)
    study = write_study(
        tmp_path / 'two.yml', {'A': write_config(tmp_path / 'a.py', data)}, optim_wrapper__optimizer__lr=0
    )
    study.write_text(study.read_text() + f'first_stages: {{A: {first}}}')
    tool = forked_study_tool(run_tool, monkeypatch)
    monkeypatch.setattr(sys, 'argv', ['study.py', *map(str, (study, *arguments(tmp_path)))])
    tool.main()
    [run] = pd.read_csv(tmp_path / 'results/two/runs.csv').to_dict('records')
    last = [next((tmp_path / 'work/two').glob(f'{model}/0-*/train/iter_2.pth')) for model in ('A', 'first-stage')]
    assert run['hash'] in str(last[0])
    weights, wanted = (load_checkpoint_file(path)['state_dict'] for path in last)
    names = [name for name in weights if not name.rpartition('.')[2].startswith(('running', 'num_batches'))]
    torch.testing.assert_close({name: weights[name] for name in names}, {name: wanted[name] for name in names})
    alone = tool.build_runs(tool.load_study(study)[1] | dict(first_stages={}), {}, tmp_path)
    assert alone[0].hash != run['hash'], 'another result'


def test_finished_runs_are_skipped(studied, run_tool):
    folder, study, *_ = studied
    before = (folder / 'results/tiny/runs.csv').read_bytes()
    done = run_tool('study.py', study, *arguments(folder))
    assert '2 of 3 runs are finished' in done.stdout
    assert (folder / 'results/tiny/runs.csv').read_bytes() == before


def test_equal_runs_of_another_study_are_copied(studied, run_tool):
    folder, *_ = studied
    other = write_study(folder / 'other.yml', {'same as B': str(folder / 'b.py')})
    other.write_text(other.read_text().replace('name: seed', 'name: repetition'))
    done = run_tool('study.py', other, *arguments(folder))
    assert '1 of 1 runs are finished' in done.stdout
    for table in ('runs', 'curves', 'scalars'):
        ours, theirs = (pd.read_csv(folder / 'results' / name / f'{table}.csv') for name in ('other', 'tiny'))
        theirs = theirs[theirs.model == 'B'].assign(model='same as B').reset_index(drop=True)
        theirs = theirs.rename(columns=dict(seed='repetition'))
        pd.testing.assert_frame_equal(ours, theirs, check_dtype=False)


def test_stop_and_resume(run_tool, fresh_processes, data, tmp_path):
    """SIGTERM ends the training too; SIGKILL leaves it running, and it holds the lock of its folder until it ends."""
    study = write_study(tmp_path / 'long.yml', dict(A=write_config(tmp_path / 'a.py', data)), iterations=30)
    command = [str(ROOT / 'tools/study.py'), str(study), *map(str, arguments(tmp_path))]
    output = tmp_path / 'stdout', tmp_path / 'stderr'

    def checkpoints():
        return [int(path.stem.removeprefix('iter_')) for path in tmp_path.glob('work/long/A/*/train/iter_*.pth')]

    def kill_at(iteration, kind):
        process = fresh_processes.Process(
            target=run_script, args=(command, tmp_path, os.environ | ENVIRONMENT, *output)
        )
        process.start()
        wait_for(lambda: max(checkpoints(), default=0) >= iteration)
        os.kill(process.pid, kind)
        process.join(60)
        assert not (tmp_path / 'results/long/runs.csv').exists()
        return process.exitcode

    assert kill_at(3, signal.SIGTERM) == 128 + signal.SIGTERM
    [folder] = tmp_path.glob('work/long/A/*')
    with (folder / 'lock').open() as lock:
        assert is_free(lock)
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert kill_at(9, signal.SIGKILL) == -signal.SIGKILL
        wait_for(lambda: is_free(lock))
        locked = run_tool('study.py', study, *arguments(tmp_path))
        assert f'another process is still running in {folder}' in locked.stderr
    assert run_tool('study.py', study, *arguments(tmp_path)).returncode == 0
    assert len(pd.read_csv(tmp_path / 'results/long/runs.csv')) == 1
    scalars = ''.join(path.read_text() for path in folder.glob('train/*/vis_data/scalars.json')).splitlines()
    steps = [line['step'] for line in map(json.loads, scalars) if 'loss' in line]
    assert sorted(steps) == list(range(1, 31)), 'no iteration was repeated or left out'


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_free(lock):
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@pytest.fixture
def study_tool():
    return load_tool('study.py')


def test_hash_follows_settings_and_custom_modules(study_tool, tmp_path, monkeypatch):
    """The module lies beside the config and imports another one there."""
    monkeypatch.setattr(sys, 'path', [*sys.path])
    module, config, inner = (tmp_path / name for name in ('my_study_parts.py', 'custom.py', 'my_study_helper.py'))
    inner.write_text('y = 1')
    config.write_text(
        f'_base_ = {str(mmvittm.configs_dir() / DEMO)!r}\n'
        "custom_imports = dict(imports=['mmvittm', 'my_study_parts'], allow_failed_imports=False)"
    )

    def hash_of(source='x = 1', **options):
        module.write_text(f'import torch, my_study_helper\n{source}')
        return study_tool.Run('A', str(config), 0, load_config(config, options), tmp_path).hash

    first = hash_of()
    assert first == hash_of(**{'train_dataloader.dataset.data_root': '/elsewhere', 'train_dataloader.num_workers': 7})
    assert first != hash_of(**{'optim_wrapper.optimizer.lr': 1e-3})
    assert first != hash_of(source='x = 2')
    inner.write_text('y = 2')
    assert first != hash_of()


def test_hash_of_unchanged_settings_stays(study_tool):
    """Results of 0.2.0 are found again by this hash."""
    cfg = Config(
        dict(
            model=dict(type='EncoderDecoder', backbone=dict(out_indices=(2, 5))),
            train_dataloader=dict(batch_size=8, num_workers=2, dataset=dict(data_root='data', fold=1)),
            train_cfg=dict(max_iters=10),
            work_dir='here',
        )
    )
    assert study_tool.hash_of(cfg) == 'e0d729db9091'


def test_speed_of_each_model(study_tool, monkeypatch, tmp_path):
    """Two models of two repeats, timed once."""
    calls = []

    def call(tools, folder, on_line, *args):
        calls.append(args)
        folder.mkdir()
        results = [
            dict(time_ms=dict(median=1.23456), macs_per_image=2e9, parameters=3e6),
            dict(time_ms=dict(median=4), macs_per_image=5e8, parameters=6e5),
        ]
        args[-1].write_text(json.dumps(dict(machine=dict(cpu='Z80', cpu_isa='CB', threads=2), results=results)))

    runs = [
        SimpleNamespace(model=model, repeat=repeat, config=f'{model}.py', write_config=lambda: None)
        for repeat in (0, 1)
        for model in ('a', 'b')
    ]
    monkeypatch.setattr(study_tool.Tools, 'call', call)
    study_tool.time_models(runs, dict(shape=['32', '64']), tmp_path / 'work', tmp_path)
    out = tmp_path / 'work/speed.json'
    assert calls == [('fps_benchmark.py', 'a.py', 'b.py', '--shape', '32', '64', '--rounds', '20', '--out', out)]
    assert (tmp_path / 'speed.csv').read_text().splitlines() == [
        'model,ms,GMACs,parameters,machine,threads',
        'a,1.235,2.0,3.0,"Z80, CB",2',
        'b,4.0,0.5,0.6,"Z80, CB",2',
    ]


def small_run(model, value, hash):
    return SimpleNamespace(model=model, repeat=value, hash=hash, folder=None, source=f'{model}.py', length=9)


def test_runs_of_other_settings_are_done_again(study_tool, tmp_path, monkeypatch):
    """One of them fails, which stops no other."""
    folder, recorded = tmp_path / 'tiny', []
    folder.mkdir()
    (folder / 'runs.csv').write_text('model,seed,hash,mIoU\nA,0,old,1\nB,0,new,2\n')

    def train_and_test(run, *_):
        if run.repeat == 1:
            raise UserError('it diverged')
        return dict(mIoU=3, minutes=1)

    monkeypatch.setattr(study_tool, 'train_and_test', train_and_test)
    monkeypatch.setattr(study_tool, 'unbuildable', lambda runs: {})
    monkeypatch.setattr(study_tool, 'record', lambda run, *_: recorded.append((run.model, run.repeat)))
    runs = [small_run(model, value, 'new') for value in (0, 1, 2) for model in 'AB']
    study = dict(repeats=dict(name='seed'), metric='mIoU')
    problems = study_tool.run_study(runs, study, folder, 1, Console(file=io.StringIO()))
    assert recorded == [('A', 0), ('A', 2), ('B', 2)]
    assert problems == ['A, seed 1 failed: it diverged', 'B, seed 1 failed: it diverged']


@pytest.mark.parametrize(
    ('line', 'sentence'),
    [
        ("sys.exit('error: the data is missing')", 'tool.py: the data is missing ('),
        ('os.kill(os.getpid(), 9)', 'tool.py: killed by SIGKILL ('),
    ],
)
def test_last_words_of_a_tool(study_tool, tmp_path, monkeypatch, line, sentence):
    (tmp_path / 'tool.py').write_text(f"import os, sys\nprint('begun', *sys.argv[1:], flush=True)\n{line}")
    monkeypatch.setattr(study_tool, 'TOOLS', tmp_path)
    lines = []
    with pytest.raises(UserError) as stopped:
        study_tool.Tools().call(tmp_path / 'run', lines.append, 'tool.py', '--out', tmp_path)
    assert str(stopped.value) == f'{sentence}{tmp_path / "run/log.txt"})'
    assert lines[0] == f'begun --out {tmp_path}\n'
    assert (tmp_path / 'run/log.txt').read_text() == ''.join(lines)


def test_log_of_a_killed_and_resumed_training(study_tool, tmp_path):
    """The killed process left half a line, and the resumed one repeats a step."""
    logs = {'train/0/vis_data': [(1, 0.5), (2, 9), (3, 9)], 'train/1/vis_data': [(2, 0.123456), (3, 7)]}
    for name, values in logs.items():
        (tmp_path / name).mkdir(parents=True)
        lines = [json.dumps({'step': step, 'norm/block_00': value, 'mIoU': value}) for step, value in values]
        (tmp_path / name / 'scalars.json').write_text('\n'.join(lines)[:-4])
    assert study_tool.validation_curve(tmp_path, 'mIoU') == {1: 0.5, 2: 0.123456}
    expected = {1: {'norm/block_00': 0.5}, 2: {'norm/block_00': 0.1235}}
    assert study_tool.training_scalars(tmp_path, ['norm', 'loss']) == expected


def test_a_run_counts_as_done_when_all_is_written(study_tool, tmp_path, monkeypatch):
    """A full disk in between: the old rows stay, and the run is done again."""
    monkeypatch.setattr(study_tool, 'hardware', lambda machine: 'abacus')
    monkeypatch.setattr(study_tool, 'describe_machine', lambda device: {})
    monkeypatch.setattr(study_tool, 'commit_of', lambda folder: '')
    monkeypatch.setattr(study_tool, 'validation_curve', lambda folder, metric: {5: 1.23456})
    monkeypatch.setattr(study_tool, 'training_scalars', lambda folder, names: {5: {'loss': 2.0}})
    study = dict(repeats=dict(name='seed'), metric='mIoU')
    study_tool.record(small_run('A', 0, 'first'), dict(mIoU=1.23456, text='no number'), study, tmp_path)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert before['curves.csv'] == 'model,seed,hash,step,mIoU\nA,0,first,5,1.235\n'
    assert before['scalars.csv'] == 'model,seed,hash,step,loss\nA,0,first,5,2.0\n'
    assert before['runs.csv'].splitlines()[1].startswith('A,0,first,A.py,9,1.235,')
    write = pd.DataFrame.to_csv

    def fill_the_disk(frame, path, **options):
        write(frame, path, **options)
        if 'scalars' in str(path):
            raise OSError('No space left on device')

    monkeypatch.setattr(pd.DataFrame, 'to_csv', fill_the_disk)
    with pytest.raises(OSError, match='No space'):
        study_tool.record(small_run('A', 1, 'second'), dict(mIoU=2), study, tmp_path)
    after = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert [name for name in after if after[name] != before.get(name)] == ['curves.csv']


def test_rows_of_two_processes(study_tool, tmp_path):
    """The second waits for the first, whose rows it would lose."""
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    second = threading.Thread(target=study_tool.append_rows, args=(tmp_path / 'runs.csv', [dict(fold=1)]))
    second.start()
    second.join(0.2)
    assert not (tmp_path / 'runs.csv').exists()
    (tmp_path / 'runs.csv').write_text('fold\n0\n')
    os.close(folder)
    second.join()
    assert list(pd.read_csv(tmp_path / 'runs.csv').fold) == [0, 1]


def test_every_shipped_study_can_be_read(study_tool, tmp_path):
    paths = list(study_tool.STUDIES.glob('*.yml'))
    assert len(paths) > 10
    for path in paths:
        name, study = study_tool.load_study(path.stem)
        configs, values = study['configs'], study['repeats']['values']
        study['repeats']['values'] = values[:1]
        runs = study_tool.build_runs(study, {}, tmp_path)
        study['repeats']['values'], study['configs'] = values[1:2], dict(list(configs.items())[:1])
        runs += study_tool.build_runs(study, {}, tmp_path)
        assert len({run.hash for run in runs}) == len(runs) == len(configs) + 1, name


def test_first_stages_normalise_as_their_segmentors(study_tool):
    _, study = study_tool.load_study('camvid')
    for model, stage in study['first_stages'].items():
        first = load_config(mmvittm.configs_dir() / stage).data_preprocessor
        then = load_config(mmvittm.configs_dir() / study['configs'][model]).model.data_preprocessor
        assert (first.get('to_rgb'), first.mean, first.std) == (then.bgr_to_rgb, then.mean, then.std)


def test_options_of_one_model(study_tool, tmp_path):
    cifar = dict.fromkeys('AB', 'vittm/vittm-6x96_4-8_1xb128-2e_cifar10.py')
    study = dict(
        configs=cifar, repeats=dict(name='seed', values=[0], keys=['randomness.seed']), folder=tmp_path,
        options={'train_dataloader.batch_size': 64}, model_options=dict(B={'train_dataloader.batch_size': 32}),
    )  # fmt: skip
    runs = study_tool.build_runs(study, {}, tmp_path)
    assert [run.cfg.train_dataloader.batch_size for run in runs] == [64, 32]
    runs = study_tool.build_runs(study, {'train_dataloader.batch_size': 8}, tmp_path)
    assert [run.cfg.train_dataloader.batch_size for run in runs] == [8, 8], 'of the command line'


@pytest.mark.parametrize(
    ('line', 'share'), [('Epoch(train)  [2][ 50/100]  lr: 1', 0.375), ('Iter(train) [ 50/200]  lr: 1', 0.25)]
)
def test_share_of_a_training_that_is_done(study_tool, tmp_path, line, share):
    shares = []
    run = SimpleNamespace(length=4, folder=tmp_path, config='c.py', write_config=lambda: None)
    study_tool.train(run, SimpleNamespace(call=lambda folder, on_line, *args: on_line(line)), shares.append)
    assert shares == [share]


def test_a_fold_within_a_path(study_tool, tmp_path):
    _, study = study_tool.load_study('earth')
    for run in study_tool.build_runs(study, {}, tmp_path):
        for loader in LOADERS:
            side = 'training' if loader == 'train_dataloader' else 'held_out'
            assert run.cfg[loader].dataset.data_prefix.seg_map_path == f'annotations/fold{run.repeat}/{side}'


# Statistics


def test_tables_of_known_numbers(tmp_path):
    """Differences 1, 2, 6: mean 3, and an interval of 3 ± 4.303 × √(7 / 3)."""
    report = load_tool('study_report.py')
    study = dict(
        title='Known', metric='mIoU', configs=dict(A='', B=''), comparisons=[['A', 'B'], ['B', 'A']],
        repeats=dict(name='fold', values=[0, 1, 2]),
    )  # fmt: skip
    rows = [('A', 0, 11), ('A', 1, 22), ('A', 2, 0), ('B', 0, 10), ('B', 1, 20), ('B', 2, 30), ('A', 2, 36)]
    runs = pd.DataFrame(rows, columns=['model', 'fold', 'mIoU'])
    runs['length'], runs['machine'] = 100, 'abacus'
    runs['IoU.water'] = [40.0, 50.0, 0.0, 70.0, 70.0, 70.0, 66.0]
    folder = tmp_path / 'known'
    folder.mkdir()
    runs.to_csv(folder / 'runs.csv')
    speed = pd.DataFrame(dict(model=['A', 'B'], ms=[1.0, 2.0], GMACs=[0.012, 14.88], machine='slide rule', threads=1))
    speed.to_csv(folder / 'speed.csv')
    page = tmp_path / 'study.md'
    page.write_text('# Ours\n\nWords.\n')
    for _ in range(2):  # the second replaces the first
        report.write_report('known', study, folder, page)
    text = page.read_text()
    assert text.startswith('# Ours\n\nWords.\n')
    assert text.count('## Known') == 1
    assert '6 of 6 runs, 100 iterations each, on abacus. Times in ms, for a batch of one on 1 threads of slide' in text
    assert '| A | 3 | 23.0 | −8.1 to 54.1 | 52.0 | 1.0 | 0.012 |' in text  # the newest row of fold 2 counts
    assert '| 2.0 | 14.9 |' in text
    assert '| A against B | 3 | +3.0 | −3.6 to 9.6 | 0.188 | no difference shown |' in text
    assert '| B against A | 3 | −3.0 | −9.6 to 3.6 | 0.188 | no difference shown |' in text
    assert {path.name for path in (tmp_path / 'images').iterdir()} == {'study_known_runs.png', 'study_known_speed.png'}
    runs.loc[0, 'machine'] = 'slide rule'
    runs.to_csv(folder / 'runs.csv')
    report.write_report('known', study, folder, page)
    assert '| −3.6 to 9.6 | 0.188 | no difference shown (two machines) |' in page.read_text()


def test_plots_of_known_numbers(monkeypatch, tmp_path):
    """Intervals of half a width beside each mean; a line per fold, with the models from top to bottom."""
    report, figures = load_tool('study_report.py'), []
    monkeypatch.setattr(report, 'save', lambda figure, path: figures.append(figure))
    rows = [('A', 0, 10), ('A', 1, 12), ('A', 2, 17), ('B', 0, 5), ('B', 1, 1), ('C', 2, 3)]
    runs = pd.DataFrame(rows, columns=['model', 'fold', 'mIoU'])
    study = dict(metric='mIoU', configs=dict.fromkeys('CAB'))
    speed = pd.DataFrame(dict(ms=[4.0, 9.0]), index=['A', 'C'])
    report.plot_tradeoff(runs, study, speed, tmp_path / 'plot.png')
    single, with_ends = figures[0].axes[0].containers
    assert (single.get_label(), with_ends.get_label()) == ('C', 'A')
    assert not single.has_yerr
    ends = with_ends.lines[2][0].get_segments()[0][:, 1]
    assert list(ends) == pytest.approx([13 - 4.302653 * (13 / 3) ** 0.5, 13 + 4.302653 * (13 / 3) ** 0.5])
    report.plot_runs(runs, study, 'fold', tmp_path / 'plot.png')
    axes = figures[1].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ['C', 'A', 'B']
    assert [line.get_label() for line in axes.lines] == ['fold 0', 'fold 1', 'fold 2']
    assert list(axes.lines[0].get_xdata())[1:] == [10, 5] and list(axes.lines[2].get_xdata())[:2] == [3, 17]
    assert axes.yaxis_inverted()


def test_curves_compare_the_folds_that_all_models_have(monkeypatch, tmp_path):
    report = load_tool('study_report.py')
    rows = [('A', 0, 10, 1), ('A', 1, 10, 2), ('A', 2, 10, 9), ('B', 1, 10, 4), ('B', 0, 10, 5), ('other', 3, 10, 0)]
    curves = pd.DataFrame(rows, columns=['model', 'fold', 'step', 'mIoU'])
    study = dict(metric='mIoU', configs=dict(A='', B='', C=''))
    figures = []
    monkeypatch.setattr(report, 'save', lambda figure, path: figures.append(figure))
    report.plot_curves(curves, study, 'fold', tmp_path / 'plot.png')
    axes = figures[0].axes[0]
    assert {line.get_label(): list(line.get_ydata()) for line in axes.lines} == {'A': [1.5], 'B': [4.5]}
    assert axes.get_ylabel() == 'mIoU, mean over folds (0, 1)'


def test_scalars_that_a_model_lacks_are_left_out(monkeypatch, tmp_path):
    report = load_tool('study_report.py')
    columns = 'model,seed,step,loss,memory/block_00,memory/block_01'
    rows = ['ViT,0,10,2,,', 'ViTTM,0,10,3,,', 'ViTTM,0,10,,5,7', 'ViTTM,1,10,,9,7', 'ViTTM,0,20,,8,9']
    (tmp_path / 'scalars.csv').write_text('\n'.join([columns, *rows]))
    study = dict(configs=dict(ViT='', ViTTM=''), scalars=['loss', 'memory'])
    figures = []
    monkeypatch.setattr(report, 'save', lambda figure, path, **legend: figures.append(figure))
    report.plot_scalars(pd.read_csv(tmp_path / 'scalars.csv'), study, tmp_path / 'plot.png')
    loss, by_block, memory, memory_by_block = figures[0].axes
    assert [line.get_label() for line in loss.lines] == ['ViT', 'ViTTM']
    assert not by_block.get_visible()
    assert [list(line.get_ydata()) for line in memory.lines] == [[7, 8.5]]
    assert [list(line.get_xdata()) for line in memory.lines] == [[0.5, 1]]
    assert [list(line.get_ydata()) for line in memory_by_block.lines] == [[8, 9]]
    assert memory.lines[0].get_color() == loss.lines[1].get_color()
    with pytest.raises(UserError, match='no model has logged the scalar memroy: correct `scalars` of the study'):
        report.plot_scalars(pd.read_csv(tmp_path / 'scalars.csv'), study | dict(scalars=['memroy']), tmp_path / 'plot')


def test_a_hash_of_digits_stays_text(study_tool, tmp_path):
    for value in ('001234567890', '1234567e8901', '123456789012'):
        study_tool.append_rows(tmp_path / 'runs.csv', [dict(model='A', fold=0, hash=value)])
    assert list(study_tool.read_rows(tmp_path / 'runs.csv').hash) == ['001234567890', '1234567e8901', '123456789012']


def test_other_runs_are_no_part_of_the_report(tmp_path, monkeypatch):
    """A trial of another length, a fold and a model that the study no longer has."""
    report = load_tool('study_report.py')
    rows = ['A,0,10,1', 'A,0,900,90', 'A,0,100,50', 'A,1,100,60', 'A,9,100,99', 'B,0,100,99', 'C,0,200,9', 'C,1,200,8']
    header = 'model,fold,length,mIoU,machine,hash'
    rows = [f'{row},cpu,{number:012}' for number, row in enumerate(rows)]
    (tmp_path / 'runs.csv').write_text('\n'.join([header, *rows]))
    curves = [f'A,0,{number:012},{step},1' for number in range(3) for step in (1, 2)]
    (tmp_path / 'curves.csv').write_text('\n'.join(['model,fold,hash,step,mIoU', *curves]))
    drawn = []
    monkeypatch.setattr(report, 'plot_curves', lambda curves, *args: drawn.append(set(curves.hash)))
    repeats = dict(name='fold', values=[0, 1])
    study = dict(title='T', metric='mIoU', configs=dict(A='a.py', C='c.py'), repeats=repeats, note='A note.')
    study['comparisons'] = [['A', 'C']]
    report.write_report('T', study, tmp_path, tmp_path / 'new/page.md')
    assert drawn == [{'000000000002'}]
    page = (tmp_path / 'new/page.md').read_text()
    assert '4 of 4 runs, 100 or 200 iterations each' in page
    assert '| A | 2 | 55.0 |' in page and '| B |' not in page
    assert page.index('A against C') < page.index('A note.')


@pytest.mark.parametrize(
    ('values', 'conclusion'),
    [
        ([1, 1.1, 1.2], 'better'),
        ([-1, -1.1, -1.2], 'worse'),
        ([1, 2, 2.2], 'better, weak evidence'),
        ([1, -1, 1], 'no difference'),
        ([0, 0, 0], 'no difference'),
    ],
)
def test_conclusions(values, conclusion):
    """Beside a comparison that shows nothing, so q is twice the p-value."""
    report = load_tool('study_report.py')
    values = dict(A=values, B=[0, 0, 0], C=[9, -9, 1])
    rows = [(model, fold, 50 + value) for model in values for fold, value in enumerate(values[model])]
    runs = pd.DataFrame(rows, columns=['model', 'fold', 'mIoU']).assign(machine='abacus')
    study = dict(metric='mIoU', comparisons=[['A', 'B'], ['C', 'B']], repeats=dict(name='fold'))
    table = report.paired_differences(runs, study)
    assert table.conclusion.iloc[0].partition(' shown')[0] == conclusion


def test_many_comparisons_are_corrected():
    """Benjamini and Hochberg multiply the k-th smallest of m p-values by m / k."""
    report = load_tool('study_report.py')
    differences = dict(B=[3, 3.1, 3.2], C=[1, 1.5, 2], D=[1, -1, 1])
    rows = [('A', fold, 0.0) for fold in range(3)]
    rows += [(model, fold, -value) for model, values in differences.items() for fold, value in enumerate(values)]
    runs = pd.DataFrame([*rows, ('E', 0, 1.0)], columns=['model', 'fold', 'mIoU']).assign(machine='abacus')
    study = dict(metric='mIoU', comparisons=[['A', model] for model in 'DBCE'], repeats=dict(name='fold'))
    table = report.difference_texts(report.paired_differences(runs, study), 'mIoU')
    p = {model: stats.ttest_1samp(values, 0).pvalue for model, values in differences.items()}
    expected = dict(B=3 * p['B'], C=1.5 * p['C'], D=p['D'])
    assert {name[-1]: q for name, q in table.q.items()} == {m: f'{q:.3f}' for m, q in expected.items()} | dict(E='–')


def test_models_that_a_study_refers_to(tmp_path):
    report = load_tool('study_report.py')
    columns = 'model,fold,length,machine,mIoU'
    (tmp_path / 'runs.csv').write_text(f'{columns}\nA,0,5,cpu,50\nA,1,5,cpu,60\n')
    (tmp_path / 'trees.csv').write_text('fold,depth,mIoU\n0,3,49\n1,3,58\n2,3,70\n0,9,99\n')
    study = dict(
        title='T', metric='mIoU', configs=dict(A='a.py'), repeats=dict(name='fold', values=[0, 1]),
        references=dict(trees=['trees.csv', dict(depth=3)]), comparisons=[['A', 'trees']],
    )  # fmt: skip
    report.write_report('T', study, tmp_path, tmp_path / 'page.md')
    page = (tmp_path / 'page.md').read_text()
    assert '2 of 2 runs, 5 iterations' in page
    assert '| trees | 2 | 53.5 |' in page
    assert '| A against trees | 2 | +1.5 |' in page
    with (tmp_path / 'trees.csv').open('a') as file:
        file.write('0,3,50\n')
    with pytest.raises(UserError, match=r'trees.csv has several rows per fold for trees: name more values'):
        report.write_report('T', study, tmp_path, tmp_path / 'page.md')
    study['references']['trees'] = ['trees.csv', dict(leaves=3)]
    with pytest.raises(UserError, match=r'trees.csv has no column leaves, which the study needs for trees'):
        report.write_report('T', study, tmp_path, tmp_path / 'page.md')
    study['references']['trees'][0] = 'forest.csv'
    with pytest.raises(UserError, match=r'forest.csv does not exist: the study refers to it for trees'):
        report.write_report('T', study, tmp_path, tmp_path / 'page.md')


# Mistakes

BAD_STUDIES = {
    'yaml': ('title: [', 'is not valid YAML: '),
    'keys': ('title: T', 'needs the keys configs, metric, repeats, title and may have comparisons, '),
    'empty section': ('{title: T, metric: m, configs: , repeats: {name: fold}}', 'needs the keys configs, '),
    'repeats': ('{title: T, metric: m, configs: {A: a.py}, repeats: {name: fold}}', 'repeats needs name '),
    'comparison': (
        '{title: T, metric: m, configs: {A: a.py}, repeats: {name: f, values: [0], keys: []}, comparisons: [[A, C]]}',
        'compares C, not one of its configs',
    ),
    'model options': (
        '{title: T, metric: m, configs: {A: a.py}, repeats: {name: f, values: [0], keys: []}, model_options: {C: {}}}',
        'has model_options of C, not one of its configs',
    ),
    'first stage': (
        '{title: T, metric: m, configs: {A: a}, repeats: {name: f, values: [0], keys: []}, first_stages: {C: a}}',
        'has first_stages of C, not one of its configs',
    ),
    'reference': (
        '{title: T, metric: m, configs: {A: a.py}, repeats: {name: f, values: [0], keys: []}, references: {B: b.csv}}',
        'reference B needs a list of a CSV file and a dict',
    ),
    'config': (
        '{title: T, metric: m, configs: {A: a.py}, repeats: {name: fold, values: [0], keys: []}}',
        'config not found: ',
    ),
}


@pytest.mark.parametrize(('text', 'expected'), BAD_STUDIES.values(), ids=BAD_STUDIES)
def test_bad_studies_end_with_one_sentence(study_tool, monkeypatch, tmp_path, text, expected):
    (tmp_path / 'bad.yml').write_text(text)
    sentence = call(study_tool, monkeypatch, tmp_path / 'bad.yml', *arguments(tmp_path))
    assert sentence.startswith('error: ')
    assert expected in sentence
    assert '\n' not in sentence


def test_unknown_study(study_tool, monkeypatch, tmp_path):
    assert 'no-such is neither a study file nor' in call(study_tool, monkeypatch, 'no-such', *arguments(tmp_path))


def test_report_without_runs(study_tool, monkeypatch, tmp_path):
    sentence = call(study_tool, monkeypatch, 'blue-marble', '--report', *arguments(tmp_path))
    assert 'runs.csv does not exist: no run of this study has finished' in sentence


def call(tool, monkeypatch, *args):
    """The sentence that the tool ends with."""
    monkeypatch.setattr(sys, 'argv', ['study.py', *map(str, args)])
    with pytest.raises(SystemExit) as stopped:
        tool.run_tool(tool.main)
    return stopped.value.code
