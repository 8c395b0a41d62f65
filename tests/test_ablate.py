"""configs/vittm/ablations, and tools/ablate.py on two of them for two iterations."""

import importlib.util
import json
import shutil
import sys
from itertools import product
from math import prod
from pathlib import Path

import pytest
import torch
from mmseg.structures import SegDataSample

import mmvittm.models
from mmvittm.apis.config import build_model, load_config
from mmvittm.registry import FUSIONS, RW_HEADS

ROOT = Path(__file__).parents[1]
ABLATIONS = {path.stem: path for path in (mmvittm.configs_dir() / 'vittm' / 'ablations').glob('*.py')}
FIRST, SECOND = 'memory-tokens-16', 'head-token-learner_fusion-add-erase'


@pytest.fixture(scope='module')
def configs():
    return {name: load_config(path) for name, path in ABLATIONS.items()}


def test_every_head_meets_every_fusion(configs):
    heads, fusions = (
        {part.__name__ for part in registry.module_dict.values() if part.__module__.startswith('mmvittm.')}
        for registry in (RW_HEADS, FUSIONS)
    )
    backbones = [cfg.model.backbone for name, cfg in configs.items() if name.startswith(('head-', 'baseline'))]
    pairs = [(backbone.rw_head.type, backbone.fusion.type) for backbone in backbones]
    assert sorted(pairs) == sorted(product(heads, fusions))
    assert len(pairs) == 18


def test_no_two_ablations_are_the_same_and_all_differ_from_the_baseline_in_the_backbone_alone(configs):
    backbones = [cfg.model.backbone for cfg in configs.values()]
    assert all(backbones.count(backbone) == 1 for backbone in backbones)
    for cfg in configs.values():
        cfg = cfg.to_dict()
        cfg['model']['backbone'] = configs['baseline'].to_dict()['model']['backbone']
        assert cfg == configs['baseline'].to_dict()


def test_ablations_are_tested_in_windows_of_the_training_size(configs):
    """A whole tile through the test's own way: a number of tokens other than the training's would be refused."""
    model = build_model(configs['head-token-learner_fusion-add-erase']).eval()
    windows = []
    model.backbone.register_forward_pre_hook(lambda module, inputs: windows.append(inputs[0].shape[2:]))
    tile, sample = torch.zeros(3, 512, 512, dtype=torch.uint8), SegDataSample(metainfo=dict(ori_shape=(300, 300)))
    with torch.no_grad():
        [result] = model.test_step(dict(inputs=[tile], data_samples=[sample]))
    assert windows == [(256, 256)] * 9
    assert result.pred_sem_seg.data.shape == (1, 300, 300)


@pytest.mark.parametrize('name', [name for name in ABLATIONS if name.startswith('memory-tokens-')])
def test_the_name_says_the_number_of_memory_tokens(configs, name):
    patch = configs[name].model.backbone.memory_embed.patch_size
    rows, columns = patch if isinstance(patch, (list, tuple)) else (patch, patch)
    assert prod(configs[name].crop_size) / (rows * columns) == int(name.removeprefix('memory-tokens-'))
    assert configs[name].model.backbone.process_embed.patch_size == 32


@pytest.fixture(scope='module')
def options(blue_marble):
    """--cfg-options of two iterations of two blocks and one test image, all loading in the main process."""
    settings = [
        'train_cfg.max_iters=2',
        'train_cfg.val_interval=2',
        'train_dataloader.batch_size=2',
        'model.backbone.out_indices=[0,0,1,1]',
        'default_hooks.checkpoint.interval=1',
        'default_hooks.logger.interval=1',
    ]
    for loader in ('train', 'val', 'test'):
        settings += [
            f'{loader}_dataloader.dataset.data_root={blue_marble}',
            f'{loader}_dataloader.num_workers=0',
            f'{loader}_dataloader.persistent_workers=False',
        ]
    settings += [f'{loader}_dataloader.dataset.indices=1' for loader in ('val', 'test')]
    return ['--cfg-options', *settings]


@pytest.fixture(scope='module')
def ablated(run_tool, options, tmp_path_factory):
    """The work dir and the output after two ablations, with a config between them that does not build."""
    work_dir = tmp_path_factory.mktemp('ablations')
    broken = work_dir / 'broken.py'
    broken.write_text(
        f"_base_ = {str(ABLATIONS['baseline'])!r}\nmodel = dict(backbone=dict(rw_heads='CrossAttention'))"
    )
    done = run_tool('ablate.py', FIRST, broken, ABLATIONS[SECOND], '--work-dir', work_dir, *options)
    return work_dir, done


def read_rows(work_dir):
    return {row['name']: row for row in json.loads((work_dir / 'table.json').read_text())['rows']}


def test_the_table_holds_what_was_measured(ablated):
    work_dir, _ = ablated
    rows = read_rows(work_dir)
    assert list(rows) == [FIRST, 'broken', SECOND]
    for name in (FIRST, SECOND):
        row = rows[name]
        folder = work_dir / name / row['config_hash']
        assert row['mIoU'] == json.loads((folder / 'test' / 'metrics.json').read_text())['mIoU']
        assert json.loads((folder / 'result.json').read_text())['config_hash'] == row['config_hash']
        assert (folder / 'train' / 'iter_2.pth').is_file()
        assert (row['iterations'], row['seed'], row['error']) == (2, 0, None)
        assert row['time_ms'] > 0
    assert rows[SECOND]['macs'] > rows[FIRST]['macs'] > 1e8, '256 memory tokens cost more than 16'
    lines = (work_dir / 'table.md').read_text(encoding='utf-8').splitlines()
    assert [line.split(' | ')[0] for line in lines[2:]] == [f'| {name}' for name in rows]
    assert f'| {rows[FIRST]["mIoU"]:.2f} |' in lines[2]


def test_a_broken_config_is_reported_and_stops_no_other(ablated):
    work_dir, done = ablated
    assert done.returncode == 1
    assert 'Traceback' not in done.stderr
    sentence = done.stderr.strip().splitlines()[-1]
    assert sentence.startswith('error: broken failed: train.py: ')
    assert "unexpected keyword argument 'rw_heads', did you mean 'rw_head'?" in sentence
    assert "'rw_heads'" in read_rows(work_dir)['broken']['error']
    assert '| broken | failed | – | – | – | 2 |' in (work_dir / 'table.md').read_text(encoding='utf-8')


def test_a_second_call_does_nothing_again(ablated, run_tool, options):
    work_dir, _ = ablated
    before = {path: path.stat().st_mtime_ns for path in work_dir.rglob('*') if path.is_file()}
    done = run_tool('ablate.py', FIRST, SECOND, '--work-dir', work_dir, *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('finished before') == 2
    assert 'nothing new to time' in done.stdout
    after = {path: path.stat().st_mtime_ns for path in work_dir.rglob('*') if path.is_file()}
    changed = {path.name for path in after if after[path] != before.get(path)}
    assert changed <= {'table.json', 'table.md'}
    assert read_rows(work_dir)[SECOND]['time_ms'] > 0


@pytest.fixture
def ablate(monkeypatch, tmp_path):
    """``ablate(*args)`` runs the tool in this process and returns the sentence that it ends with, if any."""
    spec = importlib.util.spec_from_file_location('ablate', ROOT / 'tools' / 'ablate.py')
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, 'ablate', module)
    spec.loader.exec_module(module)

    def run(*args):
        words = ['ablate.py', *map(str, args)]
        if '--work-dir' not in words:
            words[1:1] = ['--work-dir', str(tmp_path / 'work')]
        monkeypatch.setattr(sys, 'argv', words)
        try:
            module.run_tool(module.main)
        except SystemExit as stopped:
            return stopped.code

    run.module = module
    return run


@pytest.fixture
def calls(ablate, monkeypatch):
    """The tools that would be called, which are not: those calls are tested above."""
    calls = []
    monkeypatch.setattr(ablate.module, 'call_tool', lambda log, on_iteration, *args: calls.append(args))
    return calls


def test_a_changed_option_starts_anew(ablated, ablate, calls, options):
    work_dir, _ = ablated
    results = set(work_dir.rglob('result.json'))
    sentence = ablate(SECOND, '--work-dir', work_dir, *options, 'optim_wrapper.optimizer.lr=0.001')
    assert 'train.py left no checkpoint iter_2.pth' in sentence
    [[tool, config, *args]] = calls
    assert (tool, config.stem) == ('train.py', SECOND)
    assert '--resume' not in args
    assert load_config(config).optim_wrapper.optimizer.lr == 0.001
    assert set(work_dir.rglob('result.json')) == results


def test_a_half_trained_config_is_resumed(ablated, ablate, calls, options, tmp_path):
    """As after a stop within the second iteration, and after the folder was moved."""
    work_dir = shutil.copytree(ablated[0], tmp_path / 'moved')
    [folder] = [path.parent for path in (work_dir / FIRST).glob('*/result.json')]
    for path in (folder / 'result.json', folder / 'train' / 'iter_2.pth'):
        path.unlink()
    (folder / 'train' / 'last_checkpoint').write_text(str(ablated[0] / 'train' / 'iter_1.pth'))
    ablate(FIRST, '--work-dir', work_dir, *options)
    [[tool, config, *args]] = calls
    assert (tool, config.parent) == ('train.py', folder)
    assert args == ['--work-dir', folder / 'train', '--resume', folder / 'train' / 'iter_1.pth']


def test_a_trained_config_is_only_tested(ablated, ablate, calls, options, tmp_path):
    """As after a stop within the test."""
    work_dir = shutil.copytree(ablated[0], tmp_path / 'copy')
    [result] = (work_dir / FIRST).glob('*/result.json')
    before = json.loads(result.read_text())
    result.unlink()
    assert ablate(FIRST, '--work-dir', work_dir, *options) is None
    assert calls[0][:3] == ('test.py', result.parent / f'{FIRST}.py', result.parent / 'train' / 'iter_2.pth')
    assert json.loads(result.read_text()) == before


BAD_CALLS = {
    'nothing': ([], 'error: nothing to run: name configs, or give --all (--list prints what there is)'),
    'both': (['baseline', '--all'], 'error: --all runs every ablation: name configs or give --all, not both'),
    'twice': (['baseline', ABLATIONS['baseline']], 'error: two of the configs are called baseline: '),
    'typo': (['memory-tokens-61'], 'error: memory-tokens-61 is neither a config file nor the name of an ablation: did'),
    'missing': (['no/such.py'], 'error: no/such.py is neither a config file nor the name of an ablation: --list'),
    'iterations': (['baseline', '--cfg-options', 'train_cfg.max_iters=0'], 'must be a whole number above 0, not 0'),
    'option': (['baseline', '--cfg-options', 'model.neck.rescales.x=1'], 'error: the overrides '),
}


@pytest.mark.parametrize(('args', 'expected'), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_calls_end_with_one_sentence(ablate, tmp_path, args, expected):
    sentence = ablate(*args)
    assert expected in sentence
    assert '\n' not in sentence
    assert not (tmp_path / 'work').exists(), 'nothing was started'


def test_an_unwritable_work_dir_is_found_before_the_work(ablate, tmp_path):
    (tmp_path / 'file').touch()
    assert 'choose a folder you can write to' in ablate('baseline', '--work-dir', tmp_path / 'file')


def test_list_prints_every_ablation(ablate, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['ablate.py', '--list'])
    ablate.module.main()
    assert capsys.readouterr().out.split() == ['baseline', *sorted(ABLATIONS.keys() - {'baseline'})]
