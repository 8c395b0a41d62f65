"""``type='mmvittm.ViTTM'`` in other projects' configs, and every config of this one."""

import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch
from conftest import ROOT
from helpers.tiny import build_on_meta, tiny_backbone
from helpers.tools import OURS_ALONE

import mmvittm
from mmvittm import errors
from mmvittm.apis.config import build_model, input_size, load_config
from mmvittm.models import ViTTM

CONFIGS = mmvittm.configs_dir()
# Segmentors; the classifiers are tested in test_recipes.py.
RUNNABLE = sorted(
    p.relative_to(CONFIGS).as_posix()
    for p in CONFIGS.rglob('*.py')
    if '_base_' not in p.parts
    and 'ablations' not in p.parts
    and not p.stem.endswith(('in1k', 'in21k-p', 'mnist', 'cifar10', 'cifar10-128x128'))
)
BACKBONE = f"""
custom_imports = dict(imports=['mmvittm'])
backbone = {tiny_backbone()}
"""
SEGMENTOR = """
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    backbone=backbone,
    decode_head=dict(
        type='FCNHead', in_channels=16, channels=8, num_convs=1, num_classes=3, norm_cfg=dict(type='BN')))
"""
CLASSIFIER = """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=backbone,
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=5, in_channels=16))
"""


@pytest.mark.parametrize(('model', 'shape'), [(SEGMENTOR, (2, 3, 4, 4)), (CLASSIFIER, (2, 5))])
def test_backbone_in_a_users_config(tmp_path, model, shape):
    """Runs in a new process, where only ``custom_imports`` of the config imports mmvittm."""
    config = tmp_path / 'config.py'
    config.write_text(BACKBONE + model)
    script = (
        'import torch; from mmengine.config import Config; from mmengine.registry import MODELS, init_default_scope\n'
        f'cfg = Config.fromfile({str(config)!r}); init_default_scope(cfg.default_scope)\n'
        "print(tuple(MODELS.build(cfg.model).eval()(torch.randn(2, 3, 32, 32), mode='tensor').shape))"
    )
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', script], capture_output=True, text=True)
    assert done.stdout.strip().endswith(str(shape)), done.stderr


@pytest.mark.parametrize('config', RUNNABLE)
def test_every_config_builds_and_runs(config):
    """Runs on the meta device, which computes shapes only."""
    cfg = load_config(CONFIGS / config)
    model = build_on_meta(cfg)
    logits = model(torch.empty(1, 3, *input_size(cfg), device='meta'))
    assert logits.shape[1] == model.decode_head.num_classes
    train_size = model.data_preprocessor.size
    if 'alibi' in config:  # windows of two widths, each a batch of its own
        assert train_size is None and cfg.train_dataloader.batch_size == 1
    else:
        assert train_size == cfg.get('window_size', cfg.crop_size)  # the Earth is trained in windows and tested whole
    assert cfg.train_dataloader.dataset.pipeline == cfg.train_pipeline
    assert cfg.test_dataloader.dataset.pipeline == cfg.test_pipeline
    crops = [t.crop_size for t in cfg.train_pipeline if 'crop_size' in t]
    assert crops == ([] if 'digit-scenes' in config or train_size is None else [train_size])
    last = cfg.param_scheduler[-1]
    assert last.get('end', last.get('total_steps')) == cfg.train_cfg.max_iters
    assert 'SyncBN' not in cfg.pretty_text


@pytest.mark.parametrize('config', RUNNABLE)
def test_images_are_padded_to_whole_patches(config):
    """Without it, a map that covers the padding too would be stretched over the image."""
    cfg = load_config(CONFIGS / config)
    backbone, divisor = cfg.model.backbone, cfg.model.data_preprocessor.test_cfg.size_divisor
    patches = [backbone.get(embed, backbone).get('patch_size', 1) for embed in ('memory_embed', 'process_embed')]
    assert all(divisor % side == 0 for patch in patches for side in (patch if isinstance(patch, tuple) else (patch,)))


def test_the_entry_is_the_papers_setting():
    """The published settings of docs/method.md, and the UperNet that the README shows."""
    cfg = load_config(CONFIGS / 'vittm_upernet_ade20k.py')
    model = cfg.model
    assert (model.backbone.arch, model.backbone.img_size) == ('base', (504, 504))
    assert model.backbone.memory_embed.patch_size == model.backbone.process_embed.patch_size == 28
    assert (model.backbone.out_indices, model.backbone.out_stream) == ((2, 5, 8, 11), 'process')
    assert (model.neck.type, model.neck.rescales) == ('Feature2Pyramid', [4, 2, 1, 0.5])
    assert (model.decode_head.type, model.decode_head.channels, model.decode_head.num_classes) == ('UPerHead', 512, 150)
    assert (model.auxiliary_head.type, model.test_cfg.mode) == ('FCNHead', 'whole')
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 6e-5, 0.01)
    assert (cfg.train_cfg.max_iters, 8 * cfg.train_dataloader.batch_size) == (160000, 16)


CONTROLS = [
    ('b_28-28_upernet', 'b28_upernet', '8xb2-160k_ade20k-504x504'),
    ('b_28-28_segmenter', 'b28_segmenter', '8xb2-160k_ade20k-504x504'),
    ('b_16-32_upernet', 'b32_upernet', '8xb2-160k_ade20k-512x512'),
    ('t_16-32_upernet', 't16_upernet', '1xb4-4k_camvid-360x480'),
    ('t_16-32_upernet', 't16_upernet', '1xb8-4k_digit-scenes-256x256'),
    ('t_16-32_upernet', 't32_upernet', '1xb8-demo_blue-marble-256x256'),
    ('t_16-32_upernet', 't32_upernet', '1xb8-full_blue-marble-256x256'),
]


@pytest.mark.parametrize(('ours', 'vit', 'rest'), CONTROLS)
def test_controls_differ_in_the_backbone_only(ours, vit, rest):
    paths = f'vittm/vittm-{ours}_{rest}.py', f'vit/vit-{vit}_{rest}.py'
    ours, vit = (load_config(CONFIGS / path).to_dict() for path in paths)
    assert vit['model']['backbone']['type'] == 'mmpretrain.VisionTransformer'
    for cfg in (ours, vit):
        cfg['model'].pop('backbone')
        cfg['model']['decode_head'].pop('in_channels')
        cfg['model']['data_preprocessor'].pop('size_divisor', None)
        cfg['model']['data_preprocessor'].pop('test_cfg', None)
        for name in ('memory_patch', 'process_patch', 'patch_size'):
            cfg.pop(name, None)
    assert ours == vit


def test_the_segmenter_is_the_papers_setting():
    cfg = load_config(CONFIGS / 'vittm/vittm-b_28-28_segmenter_8xb2-160k_ade20k-504x504.py')
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=0.0)
    [poly], head = cfg.param_scheduler, cfg.model.decode_head
    assert (poly.type, poly.power, poly.end) == ('PolyLR', 0.9, 160000)
    assert (head.num_layers, head.in_channels, cfg.model.backbone.out_stream) == (2, 1536, 'concat')
    assert cfg.custom_hooks == [dict(type='EMAHook', ema_type='StochasticWeightAverage', begin_iter=120000)]


@pytest.mark.parametrize('folder', ['vit', 'vittm'])
def test_readme_lists_every_config(folder):
    text = (CONFIGS / folder / 'README.md').read_text()
    assert not [path.name for path in (CONFIGS / folder).glob('*.py') if f'({path.name})' not in text]


def test_no_decay_on_norms_and_position_embeddings():
    from mmengine.optim import build_optim_wrapper

    cfg = load_config(CONFIGS / 'vittm/vittm-t_16-32_upernet_1xb8-demo_blue-marble-256x256.py')
    model = build_model(cfg)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups:
        for parameter in group['params']:
            name = names[id(parameter)]
            exempt = 'pos_embed' in name or any(part in name for part in ('norm', '.ln', '.bn.', 'upsample_4x.1.'))
            assert (group['weight_decay'] == 0) == exempt, name


def test_wheel_carries_configs_tools_and_metadata(tmp_path):
    for name in ('configs', 'mmvittm', 'tools'):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns('__pycache__', '.mim'))
    for name in ('LICENSE', 'MANIFEST.in', 'README.md', 'model-index.yml', 'pyproject.toml', 'setup.py'):
        shutil.copy(ROOT / name, tmp_path)
    sdist = "from setuptools.build_meta import build_sdist; build_sdist('out')"
    wheel = [
        'pip',
        'wheel',
        '--no-deps',
        '--no-build-isolation',
        '--quiet',
        '--wheel-dir',
        'out',
        '--find-links',
        'out',
    ]
    for command in (['-c', sdist], ['-m', *wheel, '--no-index', 'mmvittm']):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / 'out').glob('mmvittm-*.whl')
    site = tmp_path / 'site'
    with zipfile.ZipFile(path) as wheel:
        files = wheel.namelist()
        wheel.extractall(site)
        (metadata,) = (wheel.read(name).decode() for name in files if name.endswith('METADATA'))
    assert f'mmvittm-{mmvittm.__version__}-' in path.name
    for folder in ('configs', 'tools'):
        sources = [file.relative_to(ROOT) for file in (ROOT / folder).rglob('*.*') if '__pycache__' not in file.parts]
        missing = [
            file for file in sources if (ROOT / file).is_file() and f'mmvittm/.mim/{file.as_posix()}' not in files
        ]
        assert {file.stem for file in missing} == (OURS_ALONE if folder == 'tools' else set())
    assert 'mmvittm/.mim/model-index.yml' in files
    assert 'Project-URL: Homepage, https://' in metadata and '# mmvittm' in metadata
    assert not re.findall(r'\]\((?!https://)[^)]+\)', metadata), 'PyPI shows no relative links'
    script = 'import mmvittm.__main__ as command; print(command.TOOLS); command.main()'
    command = [sys.executable, '-c', script, 'fps', '--help']
    env = dict(os.environ, PYTHONPATH=str(site))
    done = subprocess.run(command, cwd=tmp_path / 'out', env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f'{site}/mmvittm/.mim/tools\n') and '--shape' in done.stdout


def test_import_without_openmmlab_says_what_to_install():
    script = (
        'import importlib.util as util, sys; find = util.find_spec\n'
        "util.find_spec = lambda name, *a: None if name.startswith('mm') else find(name, *a)\n"
        'import mmvittm'
    )
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0
    assert f'run `pip install -e "{ROOT}[onedl]"`' in done.stderr.splitlines()[-1]


def test_hint_for_an_installed_package(monkeypatch):
    monkeypatch.setattr(errors, '__file__', '/venv/lib/site-packages/mmvittm/errors.py')
    assert errors.install_command('demo') == 'pip install "mmvittm[demo]"'


def test_backbone_is_registered_once_under_its_scope():
    from mmseg.registry import MODELS as MMSEG_MODELS

    assert MMSEG_MODELS.get('mmvittm.ViTTM') is ViTTM
    assert MMSEG_MODELS.get('ViTTM') is None
