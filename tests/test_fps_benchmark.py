"""tools/fps_benchmark.py: its counts against formulas, runs on small configs, and bad input."""

import json
import math
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmseg.models.segmentors import CascadeEncoderDecoder
from torch import nn
from torch.nn import functional as F

from mmvittm.apis.cli import run_tool
from mmvittm.apis.config import build_model, load_config
from mmvittm.apis.tasks import TASKS, inference_network
from mmvittm.benchmark import measurement
from mmvittm.benchmark.complexity import count_forward, count_parameters
from mmvittm.benchmark.measurement import has_fast_gemms
from mmvittm.benchmark.modes import BACKENDS, RunMode
from mmvittm.errors import UserError

ROOT = Path(__file__).parents[1]
TOOL = ROOT / 'tools' / 'fps_benchmark.py'

SEGMENTOR = """
default_scope = 'mmseg'
crop_size = (32, 48)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[0.0] * 3, std=[1.0] * 3, size=crop_size),
    backbone=dict(
        type='mmpretrain.VisionTransformer',
        arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
        img_size=32,
        patch_size=16,
        out_type='featmap',
    ),
    decode_head=dict(
        type='FCNHead', in_channels=16, channels=8, num_convs=1, num_classes=3, norm_cfg=dict(type='SyncBN')),
    auxiliary_head=dict(type='FCNHead', in_channels=16, channels=8, num_convs=1, num_classes=3))
"""
VITTM = """
_base_ = './segmentor.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmvittm.ViTTM',
        arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
        img_size=32,
        memory_embed=dict(type='PatchTokens', patch_size=8),
        process_embed=dict(type='PatchTokens', patch_size=16)))
"""
CLASSIFIER = """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32),
        img_size=32,
        patch_size=8),
    head=dict(type='VisionTransformerClsHead', num_classes=5, in_channels=16))
"""


def vit_macs(tokens: int, dims: int, hidden: int) -> int:
    """One ViT layer: qkv and output projections, the two products of attention, the MLP."""
    return tokens * (4 * dims**2 + 2 * dims * hidden) + 2 * tokens**2 * dims


@pytest.fixture(scope='module')
def configs(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp('configs')
    texts = dict(
        segmentor=SEGMENTOR,
        classifier=CLASSIFIER,
        vittm=VITTM,
        sizeless=CLASSIFIER.replace('img_size=32,', ''),
        typo=CLASSIFIER.replace('patch_size', 'patch_sise'),
        unknown=CLASSIFIER.replace('ImageClassifier', 'ImageClasifier'),
        wider=SEGMENTOR.replace('embed_dims=16', 'embed_dims=32').replace('in_channels=16', 'in_channels=32'),
        mismatched=SEGMENTOR.replace('in_channels=16', 'in_channels=4'),
        pooling=SEGMENTOR.replace('num_convs=1, num_classes=3, norm_cfg', 'num_classes=3, norm_cfg').replace(
            "type='FCNHead', in_channels=16, channels=8, num_classes=3",
            "type='PSPHead', pool_scales=(1,), in_channels=16, channels=8, num_classes=3",
            1,
        ),
        not_a_model="default_scope = 'mmpretrain'\nmodel = dict(type='CrossEntropyLoss')\ncrop_size = 8",
    )
    for name, text in texts.items():
        (folder / f'{name}.py').write_text(text)
    return {name: str(folder / f'{name}.py') for name in [*texts, 'missing']}


@pytest.fixture(scope='module')
def checkpoints(configs, tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp('checkpoints')
    for name in ('segmentor', 'classifier'):
        torch.save(dict(state_dict=build_model(load_config(configs[name])).state_dict()), folder / f'{name}.pth')
    (folder / 'truncated.pth').write_bytes((folder / 'segmentor.pth').read_bytes()[:5000])
    return {name: str(folder / f'{name}.pth') for name in ('segmentor', 'classifier', 'truncated', 'missing')}


# --- multiply-adds and parameters ------------------------------------------------------------------------------------

TOKENS, DIMS, HIDDEN = 10, 8, 24


def fused_attention(x: torch.Tensor) -> torch.Tensor:
    heads = x.unflatten(-1, (2, 4)).transpose(1, 2)
    return F.scaled_dot_product_attention(heads, heads, heads)


@pytest.mark.parametrize(
    ('model', 'shape', 'macs'),
    [
        (nn.Linear(DIMS, 5), (3, TOKENS, DIMS), 3 * TOKENS * DIMS * 5),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (1, 4, 8, 10), (4 * 5) * 6 * (4 // 2) * 9),
        (fused_attention, (3, TOKENS, DIMS), 3 * 2 * TOKENS**2 * DIMS),
        (nn.TransformerEncoderLayer(DIMS, 2, HIDDEN, batch_first=True), (2, TOKENS, DIMS), 2 * vit_macs(10, 8, 24)),
    ],
    ids=['linear', 'grouped convolution', 'fused attention', 'fused layer'],
)
@pytest.mark.parametrize('context', [torch.enable_grad, torch.inference_mode])
def test_multiply_adds_of_layers(model, shape, macs, context):
    if isinstance(model, nn.Module):
        model.eval()
    with context():
        assert count_forward(model, torch.randn(shape))[0] == macs


def test_multiply_adds_of_vit_b16():
    backbone = dict(type='mmpretrain.VisionTransformer', arch='deit-base', img_size=224, patch_size=16)
    head = dict(type='mmpretrain.VisionTransformerClsHead', num_classes=1000, in_channels=768)
    model = dict(type='mmpretrain.ImageClassifier', backbone=backbone, head=head)
    network = inference_network(build_model(Config(dict(model=model))))
    by_hand = 196 * 768 * 3 * 16**2 + 12 * vit_macs(197, 768, 4 * 768) + 768 * 1000
    assert count_forward(network, torch.randn(1, 3, 224, 224))[0] == by_hand
    assert by_hand / 1e9 == pytest.approx(17.56, abs=0.005)
    assert count_parameters(network) == 86_567_656  # timm's vit_base_patch16_224


# --- what is timed ---------------------------------------------------------------------------------------------------


def test_segmentor_network_has_no_auxiliary_heads(configs):
    model = build_model(load_config(configs['segmentor']))
    used = sum(count_parameters(part) for part in (model.backbone, model.decode_head))
    assert count_parameters(model) > used
    network = inference_network(model)
    assert count_parameters(network) == used
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in network.modules())

    images = torch.randn(2, 3, 32, 48)
    logits = BACKENDS['torch'].prepare(network, images, RunMode())()
    assert logits.shape == (2, 3, 2, 3), 'at the resolution of the head'
    assert logits.is_inference()
    torch.testing.assert_close(logits, model.forward(images, mode='tensor'))


def test_classifier_network_is_the_model(configs):
    model = build_model(load_config(configs['classifier']))
    images = torch.randn(2, 3, 32, 32)
    logits = inference_network(model)(images)
    torch.testing.assert_close(logits, model.head(model.backbone(images)))


def test_backbone_network(configs):
    model = build_model(load_config(configs['segmentor']))
    network = inference_network(model, backbone_only=True)
    assert count_parameters(network) == count_parameters(model.backbone)
    assert network(torch.randn(1, 3, 32, 48))[-1].shape == (1, 16, 2, 3)


def test_inference_network_refuses_other_models():
    with pytest.raises(UserError, match='a Linear is not supported: the model must be one of EncoderDecoder'):
        inference_network(nn.Linear(1, 1))
    cascade = CascadeEncoderDecoder.__new__(CascadeEncoderDecoder)
    with pytest.raises(UserError, match='a CascadeEncoderDecoder has several decode heads'):
        inference_network(cascade)


def test_the_last_head_of_a_cascade_decides():
    heads = nn.ModuleList([nn.Identity(), nn.Identity()])
    assert TASKS['segmentation'].head(SimpleNamespace(decode_head=heads)) is heads[1]


# --- the tool --------------------------------------------------------------------------------------------------------


def run_subprocess(*args) -> subprocess.CompletedProcess:
    env = os.environ | {'PYTHONPATH': str(ROOT)}
    return subprocess.run([sys.executable, str(TOOL), *map(str, args)], capture_output=True, text=True, env=env)


def run_here(monkeypatch, *args) -> None:
    """The tool without a process of its own, whose imports would take most of the time."""
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, args)])
    run_tool(runpy.run_path(str(TOOL))['main'])


@pytest.fixture(scope='module')
def random_run(configs, tmp_path_factory) -> tuple[str, dict]:
    out = tmp_path_factory.mktemp('out') / 'fps.json'
    pair = (configs['segmentor'], configs['classifier'])
    done = run_subprocess(*pair, '--rounds', 2, '--warmup', 1, '--batch-size', 2, '--threads', 1, '--out', out)
    assert done.returncode == 0, done.stderr
    assert list(out.parent.iterdir()) == [out]
    return done.stdout, json.loads(out.read_text())


def rates_of_gemms(run: dict, result: dict) -> list[float]:
    """Multiply-adds per ms, round by round, of the network's own largest GEMMs."""
    own = [timed for timed in run['gemms'] if timed['gemm'] in result['gemms']]
    assert len(own) == len(result['gemms']) == 3
    work = sum(math.prod(timed['gemm']) for timed in own)
    return [work / sum(times) for times in zip(*(timed['times_ms'] for timed in own), strict=True)]


def test_tool_writes_times_and_what_follows(random_run, configs):
    _, report = random_run
    first, second = report['results']
    assert [first['config'], second['config']] == [configs['segmentor'], configs['classifier']]
    assert [first['shape'], second['shape']] == [[2, 3, 32, 48], [2, 3, 32, 32]]
    [run] = report['runs']
    assert first['stopped_by'] == 'rounds'
    [ceiling] = run['ceilings']
    for result in (first, second):
        assert len(result['times_ms']) == 2
        assert min(result['times_ms']) > 0
        assert result['time_ms']['median'] == pytest.approx(sum(result['times_ms']) / 2)
        assert result['fps'] == pytest.approx(2 * 1000 / result['time_ms']['median'])
        work = 2 * 2 * result['macs_per_image'] / result['time_ms']['median'] / 1e6  # GFLOP/s
        assert result['share_of_ceiling'] == pytest.approx(work / ceiling['gflops'])
        shares = [
            (2 * result['macs_per_image'] / elapsed) / rate
            for elapsed, rate in zip(result['times_ms'], rates_of_gemms(run, result), strict=True)
        ]
        assert result['share_of_gemms']['median'] == pytest.approx(sum(shares) / 2)
    assert first['speed_ratio'] == dict(median=1.0, p10=1.0, p90=1.0, low=1.0, high=1.0, precision=0.0)
    pairs = zip(first['times_ms'], second['times_ms'], strict=True)
    assert second['speed_ratio']['median'] == pytest.approx(sum(a / b for a, b in pairs) / 2)


def test_tool_counts_the_timed_span_per_image(random_run):
    first, second = random_run[1]['results']
    assert 'without the final upsampling' in first['measures']
    patches = math.prod((2, 3))
    convolutions = patches * (16 * 8 * 9 + (16 + 8) * 8 * 9 + 8 * 3)  # FCNHead: conv, conv of input and it, classes
    assert first['macs_per_image'] == patches * 768 * 16 + 2 * vit_macs(patches + 1, 16, 32) + convolutions
    assert second['macs_per_image'] == 16 * 192 * 16 + vit_macs(17, 16, 32) + 16 * 5


def test_tool_names_machine_and_versions(random_run):
    screen, report = random_run
    assert [result['random_weights'] for result in report['results']] == [True, True]
    assert screen.count(' random ') == 2
    assert re.search(r'1: segmentor\n2: classifier\n', screen)
    assert report['machine']['threads'] == 1
    versions = report['machine']['versions']
    assert set(versions) == {'torch', 'mmengine', 'mmcv', 'mmseg', 'mmpretrain', 'mmvittm', 'python'}
    assert versions['torch'] == torch.__version__
    for said in ('without the final upsampling', '1 CPU threads', report['machine']['cpu'], torch.__version__):
        assert said in screen


def test_tool_with_checkpoints_and_backbones(configs, checkpoints, tmp_path, monkeypatch, capsys):
    names = ('segmentor', 'classifier')
    options = ['--backbone-only', '--shape', 64, 48, '--rounds', 1, '--warmup', 0, '--out', tmp_path / 'fps.json']
    run_here(monkeypatch, *(configs[n] for n in names), '--checkpoint', *(checkpoints[n] for n in names), *options)
    results = json.loads((tmp_path / 'fps.json').read_text())['results']
    for name, result in zip(names, results, strict=True):
        assert result['random_weights'] is False
        assert result['checkpoint'] == checkpoints[name]
        assert result['shape'] == [1, 3, 64, 48]
        assert result['measures'].startswith('the backbone alone')
    screen = capsys.readouterr().out
    assert 'random' not in screen
    assert 'segmentor.pth' in screen


def test_tool_runs_backends_dtypes_and_stages(run_tool, configs, tmp_path):
    pytest.importorskip('openvino')
    pair = (configs['segmentor'], configs['vittm'])
    pytest.importorskip('nncf')
    modes = ['--modes', 'torch:fp32', 'torch:bf16', 'openvino:fp32', 'openvino:int8', '--half-weights']
    options = [*modes, '--rounds', 2, '--warmup', 1, '--parts']
    # in a process of its own: training crashes after OpenVINO has run
    done = run_tool('fps_benchmark.py', *pair, *options, '--out', tmp_path / 'fps.json')
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / 'fps.json').read_text())
    modes = ['torch fp32', 'torch bf16, half weights', 'openvino fp32', 'openvino int8']
    assert [row['mode'] for row in report['results']] == [mode for mode in modes for _ in pair]
    timed = {dtype for dtype in ('fp32', 'bf16', 'int8') if has_fast_gemms(dtype, 'cpu')}
    assert {ceiling['dtype'] for ceiling in report['runs'][0]['ceilings']} == timed
    assert 'openvino' in report['machine']['versions']
    for index, row in enumerate(report['results']):
        first, same = (report['results'][i]['times_ms'] for i in (0, index - index % 2))
        for name, reference in (('speed_ratio', first), ('speed_ratio_same_mode', same)):
            ratios = [base / own for base, own in zip(reference, row['times_ms'], strict=True)]
            assert row[name]['median'] == pytest.approx(sum(ratios) / 2)
        assert ('stages_ms' in row) == (row['backend'] == 'torch')
        assert row['backend'] == 'torch' or row['peak_memory'] is None
        assert (row['share_of_gemms'] is None) == (row['dtype'] not in timed)
    vit, vittm = (row['stages_ms'] for row in report['results'][:2])
    assert list(vit) == ['embedding', 'ViT block', 'head', 'rest']
    assert list(vittm) == ['embedding', 'read', 'ViT block', 'write', 'memory block', 'head', 'rest']
    screen = done.stdout
    assert 'time by stage' in screen
    assert 'first in mode' in screen


def test_tool_sweeps_and_plots(configs, tmp_path, monkeypatch, capsys):
    pair = (configs['segmentor'], configs['vittm'])
    options = ['--sweep', 'memory-patch=8,4', '--shape', 40, '--whole-patches', '--rounds', 2, '--warmup', 0]
    run_here(monkeypatch, *pair, *options, '--out-dir', tmp_path / 'out')
    names = {path.name for path in (tmp_path / 'out').iterdir()}
    plots = {'latency.png', 'ratios_8.png', 'ratios_4.png'}
    assert names == {'results.json', 'results.csv', *plots}
    assert all((tmp_path / 'out' / name).stat().st_size > 5000 for name in plots)
    report = json.loads((tmp_path / 'out' / 'results.json').read_text())
    rows = report['results']
    assert [row['swept']['value'] for row in rows] == [8, 8, 4, 4]
    assert [row['shape'][2:] for row in rows] == [[32, 32]] * 4
    assert rows[0]['macs_per_image'] == rows[2]['macs_per_image'], 'a ViT has no memory patch'
    assert rows[3]['macs_per_image'] > rows[1]['macs_per_image']
    assert [own['unit'] for own in report['growth']] == ['pixels of patch side'] * 2
    assert len((tmp_path / 'out' / 'results.csv').read_text().splitlines()) == 5
    assert 'growth' in capsys.readouterr().out


def test_tool_times_training_with_overrides(configs, tmp_path, monkeypatch):
    options = ['--train', '--backbone-only', '--dtype', 'bf16', '--rounds', 2, '--warmup', 0]
    plain, recomputed = tmp_path / 'plain.json', tmp_path / 'recomputed.json'
    run_here(monkeypatch, configs['vittm'], *options, '--out', plain)
    overrides = ['--cfg-options', 'model.backbone.with_cp=True']
    run_here(monkeypatch, configs['vittm'], *options, *overrides, '--out', recomputed)
    plain, recomputed = (json.loads(path.read_text())['results'][0] for path in (plain, recomputed))
    assert plain['mode'] == 'torch bf16, training'
    assert recomputed['macs_per_image'] > plain['macs_per_image'], 'layers run twice'


@pytest.mark.parametrize(
    ('names', 'options', 'sentence'),
    [
        (['segmentor', 'missing'], [], 'config not found: .*missing.py'),
        (['typo'], [], "typo.py: model.backbone .VisionTransformer.: .* 'patch_sise', .*'patch_size'"),
        (['unknown'], [], "unknown.py: model: unknown type 'ImageClasifier', did you mean 'ImageClassifier'"),
        (['sizeless'], [], 'sizeless.py sets no test size .*: pass --shape'),
        (['not_a_model'], [], 'a CrossEntropyLoss is not supported'),
        (['segmentor', 'classifier'], ['--checkpoint', '{segmentor}'], '1 checkpoints for 2 configs: .* each config'),
        (['segmentor'], ['--checkpoint', '{missing}'], 'checkpoint not found: .*missing.pth'),
        (['segmentor'], ['--checkpoint', '{truncated}'], 'truncated.pth cannot be read'),
        (['wider'], ['--checkpoint', '{segmentor}'], r'segmentor.pth does not fit .*backbone\..* instead of'),
        (['segmentor'], ['--checkpoint', '{classifier}'], r'classifier.pth does not fit .*missing: backbone\.'),
        (['mismatched'], [], 'mismatched.py does not run on images of 32×48: .* 16 channels'),
        (['segmentor'], ['--shape', '8', '8', '8'], '--shape takes H or H W, not 3 numbers'),
        (['segmentor'], ['--warmup', '-1'], '--warmup must be 0 or more, not -1'),
        (['segmentor'], ['--precision', 'nan'], '--precision must be 0 or more, not nan'),
        (['segmentor'], ['--backend', 'onnxruntime', '--dtype', 'bf16'], 'onnx does not run bf16, only fp32'),
        (
            ['vittm'],
            ['--parts', '--cfg-options', 'model.backbone.memory_chunk=8'],
            '--parts cannot tell reads from writes in chunks',
        ),
        (['segmentor'], ['--parts', '--train'], '--parts times a forward pass of the backend torch'),
        (['vittm'], ['--shape', '2'], 'vittm.py does not run on images of 2×2: '),
        (['pooling'], ['--train'], 'pooling.py does not train on one image: use --batch-size 2'),
        (['segmentor'], ['--half-weights'], '--half-weights needs .* --dtype bf16 or fp16'),
        (['vittm'], ['--sweep', 'shape=32,2', '--rounds', '1'], 'vittm.py does not run on images of 2×2: '),
        (['segmentor'], ['--shape', '8', '--whole-patches'], 'segmentor.py has patches of 16×16: 8×8 holds none'),
        (['segmentor'], ['--sweep', 'memory-patch=8,4'], 'no config has a memory of patches'),
        (['vittm'], ['--sweep', 'shape=64,96', '--shape', '64'], '--sweep shape sets --shape: leave that out'),
        (
            ['vittm'],
            ['--sweep', 'batch-size=1,2', '--batch-size', '3'],
            '--sweep batch-size sets --batch-size: leave that out',
        ),
        (['vittm'], ['--sweep', 'memory-patch=8,64', '--rounds', '1'], 'patch_size 64×64 is larger than img_size'),
        (['segmentor'], ['--cfg-options', 'model.backbone.patch_sise=8'], "unexpected keyword argument 'patch_sise'"),
    ],
)
def test_tool_names_the_mistake(names, options, sentence, configs, checkpoints, tmp_path, monkeypatch):
    options = [option.format(**checkpoints) for option in options]
    with pytest.raises(SystemExit, match=f'error: .*{sentence}') as stopped:
        run_here(monkeypatch, *(configs[name] for name in names), *options, '--out', tmp_path / 'fps.json')
    assert '\n' not in stopped.value.code
    assert not list(tmp_path.iterdir()), 'nothing is left behind'


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (['--shape', '0'], "must be a whole number above 0, not '0'"),
        (['--shape', '32', '-8'], "must be a whole number above 0, not '-8'"),
        (['--rounds', '0'], "must be a whole number above 0, not '0'"),
        (['--batch-size', 'x'], "must be a whole number above 0, not 'x'"),
        (['--threads', '0'], "must be a whole number above 0, not '0'"),
        (['--backend', 'torch', 'tensorrt'], "invalid choice: 'tensorrt'"),
        (['--dtype', 'fp64'], "invalid choice: 'fp64'"),
        (['--device', 'tpu'], "invalid choice: 'tpu'"),
        (['--modes', 'torch:fp64'], "invalid choice: 'torch:fp64'"),
        (['--sweep', 'depth=1,2'], "cannot sweep 'depth': choose one of shape, batch-size, memory-patch"),
        (['--sweep', 'shape'], "must be a whole number above 0, not ''"),
        (['--sweep', 'shape=64,big'], "must be a whole number above 0, not 'big'"),
        (['--sweep', 'shape=64,0'], "must be a whole number above 0, not '0'"),
        (['--sweep', 'shape=64'], "give two or more different values, not '64'"),
        (['--sweep', 'shape=64,64'], "give two or more different values, not '64,64'"),
    ],
)
def test_tool_refuses_bad_values(options, sentence, configs, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_here(monkeypatch, configs['segmentor'], *options)
    assert stopped.value.code == 2
    assert f'argument {options[0]}: {sentence}' in capsys.readouterr().err


def test_tool_finds_an_unwritable_folder_first(configs, tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setattr(measurement, 'build_candidate', lambda *args, **options: pytest.fail('built a model first'))
    with pytest.raises(SystemExit, match=r'error: cannot write .*fps.json: '):
        run_here(monkeypatch, configs['segmentor'], '--out', tmp_path / 'file' / 'fps.json')
