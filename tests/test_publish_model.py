"""tools/publish_model.py: a training checkpoint becomes a small file that other programs load."""

import runpy
import sys
import warnings
from hashlib import sha256
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from helpers.tiny import randomize, tiny_backbone
from mmengine.hooks import EMAHook
from mmengine.registry import DefaultScope
from mmseg.apis import init_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mmvittm.apis.config import build_model, load_config
from mmvittm.apis.inference import load_model
from mmvittm.errors import UserError
from mmvittm.weights.loading import load_in_mmengine_layout

META = dict(classes=('sea', 'land', 'ice'), palette=[[0, 0, 255], [0, 255, 0], [255, 255, 255]])


@pytest.fixture
def publish(monkeypatch, capsys):
    """Run the tool in this process: ``(status, stdout)``."""

    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['publish_model.py', *map(str, args)])
        monkeypatch.setenv('COLUMNS', '300')
        status = 0
        try:
            runpy.run_path(str(ROOT / 'tools/publish_model.py'), run_name='__main__')
        except SystemExit as error:
            status = error.code
        return status, capsys.readouterr().out

    return run


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp('config') / 'config.py'
    path.write_text(f"""
custom_imports = dict(imports=['mmvittm'])
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[128.0] * 3, std=[64.0] * 3),
    backbone={tiny_backbone()!r},
    decode_head=dict(type='FCNHead', in_channels=16, channels=8, num_convs=1, num_classes=3,
                     loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True)),
    test_cfg=dict(mode='whole'))
""")
    return path


@pytest.fixture(scope='module')
def trained(config):
    """A checkpoint as a training with an EMAHook saves it, and the averaged model."""
    cfg = load_config(config)
    model = randomize(build_model(cfg))
    hook = EMAHook()
    hook.before_run(SimpleNamespace(model=model))  # the average starts as the model
    averaged = {key: value.clone() for key, value in model.state_dict().items()}
    randomize(model, seed=1)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(2, 3, 16, 16), mode='tensor').sum().backward()
    optimizer.step()
    meta = dict(iter=7, epoch=0, cfg='model = …', dataset_meta=META)
    checkpoint = dict(meta=meta, state_dict=model.state_dict(), optimizer=optimizer.state_dict())
    hook.before_save_checkpoint(None, checkpoint)
    path = config.parent / 'iter_7.pth'
    torch.save(checkpoint, path)
    yield path, averaged
    DefaultScope._instance_dict.clear()


def only_file(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


def test_averaged_weights_and_hash(publish, trained, config, tmp_path):
    source, averaged = trained
    status, out = publish(source, tmp_path / 'small.pth')
    assert status == 0 and 'averaged' in out
    path = only_file(tmp_path, 'small-*.pth')
    assert path.name == f'small-{sha256(path.read_bytes()).hexdigest()[:8]}.pth'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warnings.filterwarnings('ignore', 'TypedStorage is deprecated')  # torch 2.1 warns of itself
        checkpoint = torch.load(path, weights_only=True)
    assert checkpoint.keys() == {'meta', 'state_dict'}
    assert checkpoint['meta']['iter'] == 7 and 'cfg' not in checkpoint['meta']
    torch.testing.assert_close(dict(checkpoint['state_dict']), averaged, rtol=0, atol=0)
    publish(source, tmp_path / 'again.pth')
    assert only_file(tmp_path, 'again-*.pth').read_bytes() == path.read_bytes()


def test_init_model_takes_the_fp16_file(publish, trained, config, tmp_path):
    source, averaged = trained
    assert publish(source, tmp_path / 'half.pth', '--fp16')[0] == 0
    path = only_file(tmp_path, 'half-*.pth')
    assert path.stat().st_size < source.stat().st_size / 4
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warnings.filterwarnings('ignore', '``build_loss`` would be deprecated')  # mmseg 1.2 warns of itself
        model = init_model(str(config), str(path), device='cpu')
    assert tuple(model.dataset_meta['classes']) == META['classes']
    for key, value in model.state_dict().items():
        assert value.dtype == averaged[key].dtype
        error = (value.float() - averaged[key].float()).abs() / averaged[key].float().abs().clamp(min=1e-3)
        assert error.max() <= (2**-11 if value.ndim > 1 else 0), key


def test_safetensors(publish, trained, tmp_path):
    source, averaged = trained
    assert publish(source, tmp_path / 'small.safetensors')[0] == 0
    path = only_file(tmp_path, 'small-*.safetensors')
    torch.testing.assert_close(load_file(path), averaged, rtol=0, atol=0)
    with safe_open(path, 'pt') as file:
        assert '"classes": ["sea", "land", "ice"]' in file.metadata()['dataset_meta']
    assert load_in_mmengine_layout(path)['meta']['dataset_meta']['classes'] == ['sea', 'land', 'ice']


@pytest.mark.parametrize('stored', ['5', 'null', '[['])
def test_odd_metadata_of_safetensors(trained, config, tmp_path, stored):
    save_file(trained[1], tmp_path / 'odd.safetensors', metadata=dict(dataset_meta=stored))
    assert load_model(load_config(config), tmp_path / 'odd.safetensors')[1] == {}


def test_metadata_of_100000_lists(tmp_path):
    save_file(dict(w=torch.ones(2)), tmp_path / 'deep.safetensors', metadata=dict(dataset_meta='[' * 100_000))
    with pytest.raises(UserError, match='safetensors cannot be read'):
        load_in_mmengine_layout(tmp_path / 'deep.safetensors')


def test_a_checkpoint_without_meta(publish, tmp_path):
    torch.save(dict(meta=None, state_dict=dict(w=torch.ones(2))), tmp_path / 'source.pth')
    assert publish(tmp_path / 'source.pth', tmp_path / 'small.pth')[0] == 0
    assert torch.load(only_file(tmp_path, 'small-*.pth'))['state_dict']['w'].tolist() == [1, 1]


@pytest.mark.parametrize(
    'case, message',
    [
        ('suffix', 'name it .pth'),
        ('missing', 'checkpoint not found'),
        ('no weights', 'lr is of type float, where a dense tensor is expected'),
        ('too large', 'head.weight has values up to 1e+05, too large for fp16'),
    ],
)
def test_what_it_refuses(publish, tmp_path, case, message):
    source, out = tmp_path / 'source.pth', tmp_path / ('out.bin' if case == 'suffix' else 'out.pth')
    if case != 'missing':
        weights = {'head.weight': torch.full((2, 2), 1e5)} if case != 'no weights' else dict(lr=0.1)
        torch.save(dict(state_dict=weights), source)
    status, _ = publish(source, out, '--fp16')
    assert message in status
    assert not [*tmp_path.glob('out*')]
