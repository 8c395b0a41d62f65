"""tools/train.py, tools/test.py and what comes after them, as a user runs them, on small real data."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmseg.structures import SegDataSample
from PIL import Image

from mmvittm.apis.config import build_model, load_config
from mmvittm.datasets import BlueMarbleDataset
from mmvittm.weights.loading import load_checkpoint_file

ROOT = Path(__file__).parents[1]
DEMO = 'configs/vittm/vittm-t_16-32_upernet_1xb8-demo_blue-marble-256x256.py'
ENTRY = 'configs/vittm_upernet_ade20k.py'


def data_options(folder, batch_size):
    """--cfg-options that put a data set's folder in place and keep all loading in the main process."""
    options = [f'train_dataloader.batch_size={batch_size}']
    for loader in ('train', 'val', 'test'):
        options += [
            f'{loader}_dataloader.dataset.data_root={folder}',
            f'{loader}_dataloader.num_workers=0',
            f'{loader}_dataloader.persistent_workers=False',
        ]
    return options


@pytest.fixture(scope='module')
def trained(run_tool, blue_marble, tmp_path_factory):
    """A work dir after four iterations of the demo config on Blue Marble."""
    work_dir = tmp_path_factory.mktemp('work_dirs')
    options = [
        *data_options(blue_marble, 2),
        'train_cfg.max_iters=4',
        'train_cfg.val_interval=4',
        'default_hooks.checkpoint.interval=2',
        'default_hooks.checkpoint.max_keep_ckpts=2',
        'default_hooks.logger.interval=1',
    ]
    done = run_tool('train.py', DEMO, '--work-dir', work_dir, '--cfg-options', *options)
    assert done.returncode == 0, done.stderr
    return work_dir, options, done.stdout + done.stderr


def test_training_logs_validates_and_saves(trained):
    work_dir, _, output = trained
    assert re.search(r'Iter\(train\) \[4/4\].*loss: \d', output)
    assert re.search(r'Iter\(val\).*mIoU: [\d.]+.*IoU.polar', output)
    assert re.search(r'training .*4/4.* loss \d', output), 'no progress bar'
    assert (work_dir / 'last_checkpoint').read_text().endswith('iter_4.pth')
    weights = load_checkpoint_file(work_dir / 'iter_4.pth')['state_dict']
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_resume_goes_on_where_it_stopped(trained, run_tool):
    work_dir, options, _ = trained
    more = [option for option in options if 'max_iters' not in option] + ['train_cfg.max_iters=5']
    arguments = ['--resume', work_dir / 'iter_4.pth', '--cfg-options', *more]
    done = run_tool('train.py', DEMO, '--work-dir', work_dir / 'resumed', *arguments)
    assert done.returncode == 0, done.stderr
    output = done.stdout + done.stderr
    assert 'Iter(train) [5/5]' in output
    assert 'Iter(train) [4/5]' not in output


@pytest.fixture(scope='module')
def tested(trained, run_tool, blue_marble):
    work_dir = trained[0]
    out, show = work_dir / 'out', work_dir / 'show'
    arguments = ['--work-dir', work_dir, '--out', out, '--show-dir', show]
    options = ['--cfg-options', *data_options(blue_marble, 2)]
    done = run_tool('test.py', DEMO, work_dir / 'iter_4.pth', *arguments, *options)
    assert done.returncode == 0, done.stderr
    return out, show


def test_metrics_are_those_of_the_saved_predictions(tested, blue_marble):
    """mIoU counted again from the PNG files, by its definition."""
    out, _ = tested
    metrics = json.loads((out / 'metrics.json').read_text())
    intersect, union = np.zeros(6), np.zeros(6)
    annotations = sorted((blue_marble / 'annotations' / 'validation').glob('*.png'))
    assert len(annotations) == 19
    for annotation in annotations:
        label, prediction = (np.array(Image.open(p)) for p in (annotation, out / annotation.name))
        prediction[label == 255] = 255
        for index in range(6):
            intersect[index] += ((label == index) & (prediction == index)).sum()
            union[index] += ((label == index) | (prediction == index)).sum()
    iou = 100 * intersect / union
    assert metrics['mIoU'] == pytest.approx(iou.mean(), abs=0.01)
    assert metrics['IoU.water'] == pytest.approx(iou[0], abs=0.01)
    assert metrics['IoU.polar'] == pytest.approx(iou[5], abs=0.01)


def test_predictions_lie_where_their_pixels_are(trained, blue_marble):
    """A 300² tile is padded to whole patches of 32: the same logits as of an image padded and cut by hand."""
    config = load_config(ROOT / DEMO)
    model = build_model(config).eval()
    model.load_state_dict(load_checkpoint_file(trained[0] / 'iter_4.pth')['state_dict'])
    image = torch.randint(0, 256, (3, 300, 300), dtype=torch.uint8)
    sample = SegDataSample(metainfo=dict(ori_shape=(300, 300), img_shape=(300, 300)))
    with torch.inference_mode():
        (predicted,) = model.test_step(dict(inputs=[image], data_samples=[sample]))
        normalised = (image.flip(0)[None] - model.data_preprocessor.mean) / model.data_preprocessor.std
        logits = model(F.pad(normalised, (0, 20, 0, 20)), mode='tensor')
        logits = F.interpolate(logits, size=(320, 320), mode='bilinear', align_corners=False)
    torch.testing.assert_close(predicted.seg_logits.data, logits[0, :, :300, :300])


def test_show_dir_holds_a_picture_per_image(tested):
    pictures = list(tested[1].rglob('*.png'))
    assert len(pictures) == 19


def test_prediction_grid_shows_truth_and_prediction(tested, run_tool, blue_marble, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(
        f'_base_ = {str(ROOT / DEMO)!r}\ntest_dataloader = dict(dataset=dict(data_root={str(blue_marble)!r}))'
    )
    picture = tmp_path / 'grid.png'
    done = run_tool('prediction_grid.py', config, tested[0], '--out', picture, '--images', 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(str(picture))
    pixels = np.array(Image.open(picture).convert('RGB')).reshape(-1, 3)
    for colour in BlueMarbleDataset.METAINFO['palette']:
        assert (pixels == colour).all(1).any(), f'{colour} is nowhere in the picture'


def test_test_time_augmentation(trained, run_tool, blue_marble):
    work_dir = trained[0]
    options = ['--cfg-options', *data_options(blue_marble, 2)]
    done = run_tool('test.py', DEMO, work_dir / 'iter_4.pth', '--work-dir', work_dir / 'tta', '--tta', *options)
    assert done.returncode == 0, done.stderr
    assert 'mIoU' in done.stdout + done.stderr


@pytest.fixture(scope='module')
def tiny_ade(tmp_path_factory):
    """A folder of ADE20K's shape: two images for each split, labels 0 (unlabelled) to 150."""
    root = tmp_path_factory.mktemp('data') / 'ade'
    generator = np.random.default_rng(0)
    for split in ('training', 'validation'):
        for kind, shape, top, suffix in (('images', (72, 96, 3), 256, 'jpg'), ('annotations', (72, 96), 151, 'png')):
            folder = root / kind / split
            folder.mkdir(parents=True)
            for index in range(2):
                pixels = generator.integers(0, top, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f'ADE_{index}.{suffix}')
    return root


def test_the_entry_config_trains_and_tests_in_real_size(run_tool, tiny_ade, tmp_path):
    options = [
        *data_options(tiny_ade, 2),
        'train_cfg.max_iters=2',
        'train_cfg.val_interval=2',
        'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.interval=2',
        'default_hooks.checkpoint.save_best=None',
        'default_hooks.checkpoint.save_optimizer=False',
    ]
    done = run_tool('train.py', ENTRY, '--work-dir', tmp_path, '--cfg-options', *options)
    assert done.returncode == 0, done.stderr
    assert 'Iter(train) [2/2]' in done.stdout + done.stderr
    checkpoint = tmp_path / 'iter_2.pth'
    done = run_tool('test.py', ENTRY, checkpoint, '--work-dir', tmp_path, '--cfg-options', *data_options(tiny_ade, 2))
    assert done.returncode == 0, done.stderr
    assert 'mIoU' in done.stdout + done.stderr


def test_a_classifier_trains_through_the_same_tool(run_tool, tmp_path):
    """A config of mmpretrain's kind, with a ViTTM backbone, on a few images made here."""
    generator = np.random.default_rng(0)
    for name, mean in (('dark', 60), ('light', 200)):
        (tmp_path / 'train' / name).mkdir(parents=True)
        for index in range(4):
            pixels = generator.normal(mean, 20, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / 'train' / name / f'{index}.png')
    config = tmp_path / 'classifier.py'
    config.write_text(f"""
custom_imports = dict(imports=['mmvittm'])
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(num_classes=2, mean=[128.0] * 3, std=[64.0] * 3, to_rgb=True),
    backbone=dict(
        type='mmvittm.ViTTM',
        arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
        img_size=32,
        memory_embed=dict(type='PatchTokens', patch_size=4),
        process_embed=dict(type='PatchTokens', patch_size=8),
        rw_head=dict(type='LinearAttention', latent_ratio=2)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=16))
train_dataloader = dict(
    batch_size=4,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='CustomDataset', data_root={str(tmp_path)!r}, data_prefix='train',
                 pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]))
val_dataloader = dict(
    batch_size=4,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CustomDataset', data_root={str(tmp_path)!r}, data_prefix='train',
                 pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=1)
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.002))
train_cfg = dict(by_epoch=True, max_epochs=15, val_interval=15)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=15))
""")
    done = run_tool('train.py', config, '--work-dir', tmp_path / 'work')
    assert done.returncode == 0, done.stderr
    accuracy = re.search(r'accuracy/top1: ([\d.]+)', done.stdout + done.stderr)
    assert float(accuracy[1]) == 100, 'dark and light images are told apart'
