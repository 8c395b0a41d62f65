"""The Earth as one scene: the converter's folds, rolling, the decode head, and the configs."""

import re
import subprocess

import numpy as np
import pytest
import torch
from helpers.deployment import ROOT
from helpers.tiny import ARCH, one_thread, randomize  # noqa: F401  (a fixture)
from helpers.tools import call_tool, load_tool
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import DATASETS, TRANSFORMS
from mmseg.structures import SegDataSample
from PIL import Image

import mmvittm
from mmvittm.apis.config import build_model, load_config
from mmvittm.datasets import BlueMarbleDataset, Cached, CheckedDataset
from mmvittm.errors import UserError
from mmvittm.registry import MODELS
from mmvittm.scenes import load_shipped_model
from mmvittm.weights.saving import sha256

CONFIGS = sorted((mmvittm.configs_dir() / 'vittm').glob('*_earth-*.py'))
FOLD = 4


@pytest.fixture(scope='module')
def converter():
    return load_tool('dataset_converters/blue_marble_scene.py')


@pytest.fixture(scope='module')
def earth(run_tool, tmp_path_factory):
    out = tmp_path_factory.mktemp('data') / 'blue_marble_scene'
    done = run_tool('dataset_converters/blue_marble_scene.py', out)
    assert done.returncode == 0, done.stderr
    return out


def read(path):
    return np.asarray(Image.open(path))


def test_folds_hold_the_labels_out(converter):
    labels = np.random.default_rng(0).integers(0, 6, (600, 5400), np.uint8)
    training, held_out = converter.fold_labels(labels, [(0, 1), (1, 1), (1, 7), (0, 2)], fold=1)
    held_columns = np.isin(np.arange(5400) // 300, (1, 7, 13))
    assert (training[:, held_columns] == 255).all()
    np.testing.assert_array_equal(training[:, ~held_columns], labels[:, ~held_columns])
    tiles = np.zeros(labels.shape, bool)
    tiles[:600, 300:600] = tiles[300:, 2100:2400] = True
    np.testing.assert_array_equal(held_out, np.where(tiles, labels, 255))


def test_scores_are_on_the_pixels_of_the_tiles(earth, blue_marble):
    """Same images and labels as those that models of tiles are evaluated on, and nothing else."""
    image = read(earth / 'images' / 'earth.png')
    held_out = read(earth / 'annotations' / f'fold{FOLD}' / 'held_out' / 'earth.png')
    tiles = DATASETS.build(
        dict(type='mmvittm.BlueMarbleDataset', data_root=str(blue_marble), fold=FOLD, held_out=True, pipeline=[],
             data_prefix=dict(img_path='images', seg_map_path='annotations'))
    )  # fmt: skip
    assert len(tiles) > 20
    rest = held_out.copy()
    for tile in tiles:
        row, column = (int(part[1:]) * 300 for part in tile['img_path'][:-4].rpartition('/')[2].split('_'))
        part = slice(row, row + 300), slice(column, column + 300)
        np.testing.assert_array_equal(image[part], read(tile['img_path']))
        np.testing.assert_array_equal(held_out[part], read(tile['seg_map_path']))
        rest[part] = 255
    assert (rest == 255).all()


def test_converter_keeps_a_complete_scene(earth, run_tool):
    done = run_tool('dataset_converters/blue_marble_scene.py', earth)
    assert done.returncode == 0
    assert 'is already there; pass --overwrite' in done.stdout


@pytest.mark.parametrize('name', ['notes.txt', 'images/training/r0_c00.png'])
def test_converter_replaces_nothing_else(run_tool, tmp_path, name):
    path = tmp_path / 'data' / name
    path.parent.mkdir(parents=True)
    path.touch()
    done = run_tool('dataset_converters/blue_marble_scene.py', tmp_path / 'data', '--overwrite')
    assert done.returncode == 1
    assert 'holds other files than a Blue Marble scene' in done.stderr
    assert path.exists()


def test_image_and_labels_roll_alike():
    roll = TRANSFORMS.build(dict(type='mmvittm.RandomRoll'))
    labels = np.arange(24, dtype=np.uint8).reshape(2, 12)
    shifts = set()
    for _ in range(40):
        out = roll(dict(img=np.stack([labels] * 3, 2), gt_seg_map=labels))
        np.testing.assert_array_equal(out['img'][..., 1], out['gt_seg_map'])
        shift = int(out['gt_seg_map'][0].argmin())  # where column 0 is now
        np.testing.assert_array_equal(out['gt_seg_map'], np.roll(labels, shift, 1))
        shifts.add(shift)
    assert len(shifts) > 6


def test_rolling_can_be_rare():
    roll = TRANSFORMS.build(dict(type='mmvittm.RandomRoll', prob=0.0))
    labels = np.arange(24).reshape(2, 12)
    assert (roll(dict(img=labels, gt_seg_map=labels))['img'] == labels).all()
    with pytest.raises(UserError, match='a probability between 0 and 1, not 2'):
        TRANSFORMS.build(dict(type='mmvittm.RandomRoll', prob=2))


def test_cached_transforms_run_once():
    """The cache neither reaches later transforms as writable arrays, nor their results."""
    calls = []

    def load(results):
        calls.append(results['img_path'])
        return results | dict(img=np.zeros((2, 3)))

    cached = Cached([load])
    for path in ('a.png', 'b.png', 'a.png'):
        out = cached(dict(img_path=path))
        assert (out['img_path'], out['img'].shape) == (path, (2, 3))
        with pytest.raises(ValueError, match='read-only'):
            out['img'] += 1
        out['img'] = None
    assert calls == ['a.png', 'b.png']


def test_lists_in_the_cache_do_not_grow():
    """A later LoadAnnotations appends to ``seg_fields``, and RandomFlip would flip the labels once for each entry."""
    cached = Cached([lambda results: results])
    for _ in range(3):
        out = cached(dict(img_path='a.png', seg_fields=[]))
        out['seg_fields'].append('gt_seg_map')
        assert out['seg_fields'] == ['gt_seg_map']


def test_what_is_cached_is_checked(earth):
    init_default_scope('mmseg')
    scene = load_config(CONFIGS[0]).train_dataloader.dataset | dict(data_root=str(earth))
    [cached, *_] = CheckedDataset(scene).dataset.pipeline.transforms
    names = [type(step).__name__ for step in cached.transforms.transforms]
    assert names == ['LoadImageFromFile', 'CheckImage', 'LoadAnnotations', 'CheckLabels']


def head(**options):
    cfg = dict(
        type='mmvittm.PixelShuffleHead', in_channels=[8, 8], in_index=[0, 1], channels=4, token_channels=16, upscale=3,
        num_classes=5, dropout_ratio=0.0, loss_decode=dict(type='mmseg.CrossEntropyLoss'),
    )  # fmt: skip
    return MODELS.build(cfg | options)


def test_each_block_reaches_three_tokens_further():
    torch.manual_seed(0)
    net, x = head(num_blocks=2).eval(), torch.randn(1, 8, 11, 11)
    before, x = net([x, x]), x.clone()
    x[:, 0, 5, 5] += 1  # not all channels alike, which the norm would remove
    assert (net([x, x]) != before).any(1)[0].nonzero()[:, 0].min() == 0, 'two blocks and a convolution reach 7 tokens'


def test_each_token_becomes_a_block_of_logits():
    torch.manual_seed(0)
    net = head().eval()
    x = torch.randn(1, 8, 6, 7)
    logits = net([x, x])
    assert logits.shape == (1, 5, 18, 21)
    x = x.clone()
    x[:, 0, 0, 0] += 1
    changed = (net([x, x]) != logits).any(1)[0].nonzero()
    assert changed.max() == 6, 'a token and its neighbours are 6×6 logits, and the last convolution adds one'


def test_every_parameter_of_the_head_gets_a_gradient():
    net = head(num_blocks=1, fine_upscale=2)
    net([torch.randn(1, 8, 6, 7), torch.randn(1, 8, 6, 7)]).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())


def test_the_head_keeps_pytorchs_initialisation():
    torch.manual_seed(0)
    net = head(channels=64)
    before = net.conv_seg.weight.detach().clone()
    net.init_weights()
    assert torch.equal(net.conv_seg.weight, before)
    assert before.std().item() == pytest.approx((1 / 64 / 3) ** 0.5, rel=0.1)  # mmseg's own would be 0.01


CROSS_ENTROPY, DICE = dict(type='mmseg.CrossEntropyLoss'), dict(type='mmseg.DiceLoss', loss_weight=0.5)


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(ignore_index=3),
        dict(loss_decode=[CROSS_ENTROPY, CROSS_ENTROPY, DICE]),
        dict(sampler=dict(type='mmseg.OHEMPixelSampler', thresh=0.7, min_kept=50)),
    ],
    ids=['one', 'ignored label', 'several', 'sampler'],
)
def test_losses_of_the_head_are_those_of_mmseg(options):
    torch.manual_seed(0)
    net, logits = head(**options), torch.randn(2, 5, 18, 21)
    labels = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 5, (1, 36, 42)))) for _ in range(2)]
    losses, expected = net.loss_by_feat(logits, labels), BaseDecodeHead.loss_by_feat(net, logits, labels)
    assert losses.keys() == expected.keys()
    for name in losses.keys() - {'acc_seg'}:
        assert losses[name].item() == expected[name].item() > 0


def test_accuracy_of_the_head_is_that_of_every_eighth_pixel():
    torch.manual_seed(0)
    logits = torch.randn(1, 5, 36, 42)
    best = logits.argmax(1)
    labels = (best + 1) % 5
    labels[:, ::8, ::8] = best[:, ::8, ::8]
    labels[:, :8, :16] = 255
    labels[:, 8, 8] = (best[:, 8, 8] + 1) % 5
    losses = head().loss_by_feat(logits, [SegDataSample(gt_sem_seg=PixelData(data=labels))])
    assert losses['acc_seg'].item() == pytest.approx(100 * (5 * 6 - 3) / (5 * 6 - 2))


@pytest.mark.parametrize('path', CONFIGS, ids=[path.stem for path in CONFIGS])
def test_config_trains_a_step(path, earth, monkeypatch):
    """On a window of the real data."""
    monkeypatch.setenv('BLUE_MARBLE_FOLD', str(FOLD))
    np.random.seed(0)  # what the transforms draw from
    torch.manual_seed(0)
    cfg = load_config(path)
    init_default_scope('mmseg')
    train = DATASETS.build(cfg.train_dataloader.dataset | dict(data_root=str(earth)))
    sample = train[0]
    labels = sample['data_samples'].gt_sem_seg.data[0].numpy()
    assert labels.shape in [(2700, width) for width in (300, 360, 1080)]
    assert 0 in labels and 5 in labels, 'every window of full height shows water and polar land'
    seen = np.concatenate([train[0]['data_samples'].gt_sem_seg.data[0].numpy() for _ in range(8)], 1)
    assert set(np.unique(seen)) == {0, 1, 2, 3, 4, 5, 255}
    net = build_model(cfg)
    net.init_weights()
    data = net.data_preprocessor(dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']]), True)
    loss = net.loss(**data)['decode.loss_ce']
    loss.backward()
    assert loss.item() == pytest.approx(np.log(6), abs=0.7)
    missing = [name for name, p in net.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not missing


def test_configs_evaluate_at_full_size(earth, monkeypatch):
    monkeypatch.setenv('BLUE_MARBLE_FOLD', str(FOLD))
    first, *others = [load_config(path).test_dataloader for path in CONFIGS]
    assert all(other == first for other in others)
    init_default_scope('mmseg')
    sample = DATASETS.build(first.dataset | dict(data_root=str(earth)))[0]['data_samples']
    assert sample.ori_shape == sample.gt_sem_seg.shape == (2700, 5400)
    expected = read(earth / 'annotations' / f'fold{FOLD}' / 'held_out' / 'earth.png')
    np.testing.assert_array_equal(sample.gt_sem_seg.data[0].numpy(), expected)


# The figure


def test_figure_of_the_earth(earth, tmp_path, monkeypatch):
    config = tmp_path / 'config.py'
    loader = f'dict(dataset=dict(data_root={str(earth)!r}))'
    config.write_text(f'_base_ = {str(CONFIGS[-1])!r}\ntrain_dataloader = test_dataloader = {loader}\n')
    with pytest.raises(UserError, match=r'prediction not found: .*earth.png, write it with tools/test.py'):
        call_tool(monkeypatch, 'earth.py', config, tmp_path, '--out', tmp_path / 'figure.png')
    Image.fromarray(np.full((2700, 5400), 4, np.uint8)).save(tmp_path / 'earth.png')
    call_tool(monkeypatch, 'earth.py', config, tmp_path, '--out', tmp_path / 'figure.png')
    labels, prediction = np.array_split(read(tmp_path / 'figure.png')[..., :3], 3, axis=1)[1:]
    for name, colour in zip(*BlueMarbleDataset.METAINFO.values(), strict=True):
        assert (labels == colour).all(2).mean() > 1e-3, name
        assert ((prediction == colour).all(2).mean() > 0.5) == (name == 'cold'), name


@pytest.mark.parametrize('fold', [0, FOLD])
def test_held_out_columns_are_framed(fold):
    """Every sixth of 18 columns, on maps that are twice as wide as high."""
    labels = np.zeros((18, 36), np.uint8)
    figure = load_tool('earth.py').draw(np.zeros((18, 36, 3), np.uint8), labels, labels, fold)
    for axis in figure.axes:
        assert [patch.get_x() for patch in axis.patches] == pytest.approx([(fold + 6 * k) / 9 for k in range(3)])
        assert {(round(patch.get_width(), 6), patch.get_height()) for patch in axis.patches} == {(round(1 / 9, 6), 1)}


def test_figure_of_another_config(tmp_path, monkeypatch):
    config = mmvittm.configs_dir() / 'vittm' / 'vittm-t_16-32_upernet_1xb8-demo_blue-marble-256x256.py'
    with pytest.raises(UserError, match='does not train on the Earth as one scene'):
        call_tool(monkeypatch, 'earth.py', config, tmp_path)


def test_make_globe_trains_tests_and_draws(tmp_path):
    (tmp_path / '.installed').touch()
    command = ['make', '-n', 'globe', 'TRAIN=1', f'VENV={tmp_path}', 'PYTHON=none']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding='utf-8', check=True)
    steps = re.findall(r'tools/(\w+)\.py (\S+)', done.stdout.partition('blue_marble_scene.py')[2])
    assert [step for step, _ in steps] == ['train', 'test', 'earth']
    assert all('_earth-' in config and (ROOT / config).is_file() for _, config in steps)


# The shipped model


def test_shipped_model_scores_as_its_card_says(earth):
    """In one pass at the input size, on the held-out tiles at full size."""
    folder = ROOT / 'weights' / 'earth'
    card = (folder / 'README.md').read_text()
    (file,) = folder.glob('*.safetensors')
    assert sha256(file) in card
    assert file.stat().st_size < 20e6
    cfg = load_config(folder / 'config.py')
    init_default_scope('mmseg')
    sample = DATASETS.build(cfg.test_dataloader.dataset | dict(data_root=str(earth)))[0]
    with torch.inference_mode():
        result = load_shipped_model(folder).test_step(pseudo_collate([sample]))[0]
    truth, prediction = result.gt_sem_seg.data.flatten(), result.pred_sem_seg.data.flatten()
    known = truth != 255
    pairs = torch.bincount(6 * truth[known] + prediction[known], minlength=36).reshape(6, 6).double()
    iou = pairs.diag() / (pairs.sum(0) + pairs.sum(1) - pairs.diag())
    assert 100 * iou.mean().item() == pytest.approx(float(re.search(r'mIoU ([\d.]+)', card)[1]), abs=0.2)
