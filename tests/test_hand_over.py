"""Pretrain a small classifier on MNIST, load it into a Blue Marble segmentor, and train that."""

import gzip
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image
from torch.utils.data import DataLoader

from mmvittm.models.token_embeds import resample_pos_embed
from mmvittm.weights.loading import load_checkpoint_file

ROOT = Path(__file__).parents[1]
TINY = """dict(
        arch=dict(_delete_=True, embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
        rw_head=dict(type='LinearAttention', latent_ratio=2), {more})"""


@pytest.fixture(scope='module')
def mnist(run_tool, tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'mnist'
    done = run_tool('dataset_converters/mnist.py', out)
    assert done.returncode == 0, done.stderr
    assert '4000 images in train, 1000 images in val' in done.stdout
    return out


def data_config(split, root, more=''):
    return f"""
{split}_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root={str(root)!r}, {more}))"""


@pytest.fixture(scope='module')
def pretrained(run_tool, mnist, tmp_path_factory):
    """A work dir after four steps of the MNIST recipe with a smaller model and every fortieth image."""
    folder = tmp_path_factory.mktemp('mnist')
    config = folder / 'config.py'
    config.write_text(
        f"""
_base_ = {str(ROOT / 'configs/vittm/vittm-t_7-14_1xb32-30e_mnist.py')!r}
model = dict(backbone={TINY.format(more='')}, head=dict(in_channels=16))
train_cfg = dict(max_epochs=1, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=1), logger=dict(interval=1))"""
        + data_config('train', mnist, 'indices=list(range(0, 4000, 40))')
        + data_config('val', mnist, 'indices=list(range(0, 1000, 40))')
        + data_config('test', mnist, 'indices=list(range(0, 1000, 40))')
    )
    done = run_tool('train.py', config, '--work-dir', folder / 'run', '--verbose')
    assert done.returncode == 0, done.stderr
    return config, folder / 'run', done.stdout + done.stderr


# The data


def test_mnist_is_split_evenly(mnist):
    for split, each in (('train', 400), ('val', 100)):
        counts = {folder.name: len(list(folder.glob('*.png'))) for folder in (mnist / split).iterdir()}
        assert counts == dict.fromkeys('0123456789', each)
    image = np.array(Image.open(next((mnist / 'val' / '1').glob('*.png'))))
    assert image.shape == (28, 28)
    assert image.max() > 200 and image[0].max() == 0  # a bright digit in a black frame


def test_a_converted_data_set_is_kept(run_tool, mnist):
    before = sorted(mnist.rglob('*'))
    done = run_tool('dataset_converters/mnist.py', mnist)
    assert done.returncode == 0
    assert 'is already there; pass --overwrite' in done.stdout
    assert sorted(mnist.rglob('*')) == before


def idx(array: np.ndarray) -> bytes:
    return gzip.compress(struct.pack(f'>HBB{array.ndim}I', 0, 8, array.ndim, *array.shape) + array.tobytes())


@pytest.fixture
def fashion(monkeypatch, tmp_path):
    """The converter, reading a source of its format with 20 images to train and 10 to test with."""
    monkeypatch.syspath_prepend(str(ROOT / 'tools' / 'dataset_converters'))
    import fashion_mnist

    source = tmp_path / 'source'
    source.mkdir()
    for split, number in (('train', 20), ('t10k', 10)):
        images = np.arange(number * 784, dtype=np.uint32).astype(np.uint8).reshape(number, 28, 28)
        (source / f'{split}-images-idx3-ubyte.gz').write_bytes(idx(images))
        (source / f'{split}-labels-idx1-ubyte.gz').write_bytes(idx(np.arange(number, dtype=np.uint8) % 10))
    monkeypatch.setattr(fashion_mnist, 'SOURCE', source)
    return fashion_mnist


def test_fashion_mnist_is_read(fashion, tmp_path, monkeypatch):
    monkeypatch.setattr('sys.argv', ['fashion_mnist.py', str(tmp_path / 'out')])
    fashion.main()
    assert len(list((tmp_path / 'out').rglob('*.png'))) == 30
    # image 13 is of class 3, a dress
    written = np.array(Image.open(tmp_path / 'out' / 'train' / 'dress' / '00013.png'))
    np.testing.assert_array_equal(written, fashion.read()['train'].images[13])


@pytest.mark.parametrize(
    ('content', 'sentence'),
    [
        (None, r'is missing: run `apt-get install dataset-fashion-mnist`'),
        (b'no gzip', r'cannot be read .*: run `apt-get install --reinstall'),
        (idx(np.zeros(3, np.uint8))[:-12], r'cannot be read'),
        (gzip.compress(struct.pack('>HBBI', 0, 13, 1, 1) + b'1234'), r'element type 0xd instead of bytes'),
        (gzip.compress(struct.pack('>HBBI', 0, 8, 1, 9) + b'1234'), r'cannot be read'),
    ],
    ids=['missing', 'no-gzip', 'truncated', 'floats', 'short'],
)
def test_bad_sources_of_fashion_mnist(fashion, content, sentence):
    from mmvittm.errors import UserError

    path = fashion.SOURCE / 'train-images-idx3-ubyte.gz'
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        fashion.read()


# The classifier


def test_accuracy_of_every_prediction_is_logged(pretrained):
    _, _, output = pretrained
    for name in ('memory', 'process', 'mean'):
        assert re.search(rf'Epoch\(train\).*{name}_accuracy_top-1: [\d.]+', output), name
        assert re.search(rf'Epoch\(val\).*{name}/top1: [\d.]+', output), name
    assert re.search(r'Epoch\(val\).*accuracy/top1: [\d.]+', output)


def test_test_py_takes_a_classifier(pretrained, run_tool, tmp_path):
    config, work_dir, output = pretrained
    arguments = ['--work-dir', tmp_path, '--out', tmp_path / 'out', '--show-dir', tmp_path / 'show']
    done = run_tool('test.py', config, work_dir / 'epoch_1.pth', *arguments)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / 'out' / 'metrics.json').read_text())
    # the checkpoint's weights are those that were validated: the averaged ones
    for name in ('accuracy', 'memory', 'process', 'mean'):
        validated = re.search(rf'Epoch\(val\).*{name}/top1: ([\d.]+)', output)[1]
        assert metrics[f'{name}/top1'] == pytest.approx(float(validated), abs=1e-3)
    assert metrics['accuracy/top1'] == metrics['memory/top1']
    assert len(list((tmp_path / 'show').rglob('*.png'))) == 25


class WeightsOfEveryStep(Hook):
    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append({key: value.clone() for key, value in runner.model.state_dict().items()})


def test_state_dict_of_an_ema_hook_is_the_average(tmp_path):
    """Compares with an average computed here: docs/recipe.md relies on it."""
    from mmengine.model import BaseModel

    class Model(BaseModel):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(3, 1)

        def forward(self, inputs, mode):
            return dict(loss=self.fc(torch.stack(inputs)).square().mean())

    torch.manual_seed(0)
    model, spy = Model(), WeightsOfEveryStep()
    data = [dict(inputs=torch.randn(3)) for _ in range(8)]
    runner = Runner(
        model,
        str(tmp_path),
        train_dataloader=DataLoader(data, batch_size=2, collate_fn=pseudo_collate),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.5)),
        custom_hooks=[dict(type='mmpretrain.EMAHook', momentum=0.25)],
    )
    runner.register_hook(spy, 'VERY_HIGH')
    runner.train()
    # the first step takes the weights over: the average begins there
    average = spy.seen[0]
    for weights in spy.seen[1:]:
        average = {key: 0.75 * average[key] + 0.25 * weights[key] for key in average}
    saved = load_checkpoint_file(tmp_path / 'epoch_1.pth')
    torch.testing.assert_close(dict(saved['state_dict']), average)
    trained = {key.removeprefix('module.'): value for key, value in saved['ema_state_dict'].items() if key != 'steps'}
    torch.testing.assert_close(trained, spy.seen[-1])


# The hand-over


@pytest.fixture(scope='module')
def segmentor(run_tool, few_tiles, pretrained, tmp_path_factory):
    """A work dir after two steps, of learning rate zero, that start from the MNIST classifier."""
    folder = tmp_path_factory.mktemp('blue_marble')
    config = folder / 'config.py'
    checkpoint = pretrained[1] / 'epoch_1.pth'
    init_cfg = f"dict(type='Pretrained', checkpoint={str(checkpoint)!r}, prefix='backbone.')"
    config.write_text(
        f"""
_base_ = {str(ROOT / 'configs/vittm/vittm-t_16-32_upernet_1xb8-demo_blue-marble-256x256.py')!r}
model = dict(
    backbone={TINY.format(more=f'init_cfg={init_cfg}, out_indices=(0, 0, 1, 1)')},
    neck=dict(embed_dim=16),
    decode_head=dict(in_channels=[16, 16, 16, 16], channels=16),
    auxiliary_head=dict(in_channels=16, channels=16))
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2), logger=dict(interval=1))
optim_wrapper = dict(optimizer=dict(lr=0.0, weight_decay=0.0))"""
        + data_config('train', few_tiles)
        + data_config('val', few_tiles)
        + data_config('test', few_tiles)
    )
    arguments = ['--work-dir', folder / 'run', '--verbose', '--cfg-options', 'train_dataloader.batch_size=2']
    done = run_tool('train.py', config, *arguments)
    assert done.returncode == 0, done.stderr
    return config, folder / 'run', done.stdout + done.stderr


def test_log_reports_what_was_loaded(segmentor):
    (sentence,) = re.findall(r'init_cfg of backbone, \S+epoch_1.pth: (.*)', segmentor[2])
    loaded, total = map(int, re.match(r'(\d+) of (\d+) weights are loaded; ', sentence).groups())
    assert total - loaded == 2  # both kernels
    assert 'resampled: memory_embed.pos_embed (1, 16, 16) for (1, 256, 16), process_embed.pos_embed' in sentence
    assert (
        'not loaded, wrong shape: '
        'memory_embed.patches.projection.weight (16, 3, 7, 7) for (16, 3, 16, 16), '
        'process_embed.patches.projection.weight (16, 3, 14, 14) for (16, 3, 32, 32)' in sentence
    )
    assert 'missing' not in sentence and 'unused' not in sentence
    assert 'memory_embed.pos_embed resampled from 4×4 to 16×16' in segmentor[2]


def test_segmentor_loads_the_classifiers_average(segmentor, pretrained):
    given = load_checkpoint_file(pretrained[1] / 'epoch_1.pth')['state_dict']
    got = load_checkpoint_file(segmentor[1] / 'iter_2.pth')['state_dict']
    for key in (key for key in got if key.startswith('backbone.')):
        if key.endswith('projection.weight'):
            assert got[key].shape != given[key].shape
        elif key.endswith('pos_embed'):
            source, target = (int(each.shape[1] ** 0.5) for each in (given[key], got[key]))
            expected = resample_pos_embed(given[key], (source, source), (target, target))
            torch.testing.assert_close(got[key], expected)
        else:
            torch.testing.assert_close(got[key], given[key], rtol=0, atol=0)


def test_the_segmentor_trains_on(segmentor):
    losses = [float(loss) for loss in re.findall(r'Iter\(train\) \[\d/2\].* loss: ([\d.]+)', segmentor[2])]
    assert len(losses) == 2 and all(np.isfinite(losses))
    assert re.search(r'Iter\(val\).*mIoU: [\d.]+', segmentor[2])


def test_wrong_prefix(segmentor, run_tool, tmp_path):
    arguments = ['--work-dir', tmp_path, '--cfg-options', 'model.backbone.init_cfg.prefix=module.backbone.']
    done = run_tool('train.py', segmentor[0], *arguments)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('error: init_cfg of backbone')
    assert last.endswith("no key of the checkpoint begins with 'module.backbone.': its keys begin with backbone, head")
