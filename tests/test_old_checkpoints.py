"""Checkpoints of mmvittm 0.1.0 load and give the same numbers; ``tests/data/v0.1.0/make.py`` wrote them with 0.1.0."""

import pytest
import torch
from conftest import ROOT
from helpers.golden import relative_error
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader
from mmpretrain import get_model
from mmseg.apis import init_model
from safetensors.torch import load_file

from mmvittm.weights import load_checkpoint_file, load_weights, use_safe_loading

FOLDER = ROOT / 'tests' / 'data' / 'v0.1.0'


def by_load_weights(cfg, checkpoint):
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    load_weights(model, checkpoint)
    return model.eval()


def by_task_api(cfg, checkpoint):
    if cfg.default_scope == 'mmseg':
        return init_model(cfg, str(checkpoint), device='cpu')
    return get_model(cfg, pretrained=str(checkpoint), device='cpu').eval()


@pytest.fixture
def safe_loading(monkeypatch):
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    use_safe_loading()


# The images are 24×24. At img_size=16 positions are resampled in the forward pass, at 24 while loading.
@pytest.mark.parametrize('img_size', [16, 24])
@pytest.mark.parametrize('load', [by_load_weights, by_task_api])
@pytest.mark.parametrize('name', ['classifier', 'segmentor'])
def test_same_outputs(safe_loading, name, load, img_size):
    cfg = Config.fromfile(FOLDER / f'{name}.py')
    cfg.model.backbone.img_size = img_size
    expected = load_file(FOLDER / f'{name}.safetensors')
    model = load(cfg, FOLDER / f'{name}.pth')
    with torch.inference_mode():
        outputs = model(expected['images'], mode='tensor')
    assert relative_error(outputs, expected['outputs']) < 1e-5


@pytest.mark.parametrize(
    'name, states', [('classifier', {'step', 'exp_avg', 'exp_avg_sq'}), ('segmentor', {'momentum_buffer'})]
)
def test_optimizer_and_logs_are_read(name, states):
    checkpoint = load_checkpoint_file(FOLDER / f'{name}.pth')
    assert (checkpoint['meta']['epoch'], checkpoint['meta']['iter']) == (1, 2)
    assert checkpoint['meta']['dataset_meta']['classes'] == ('a', 'b', 'c')
    assert set(checkpoint['optimizer']['state'][0]) == states
    assert len(checkpoint['message_hub']['log_scalars']['train/loss'].data[0]) == 2
