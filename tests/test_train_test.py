"""tools/train.py, tools/test.py and tools/prediction_grid.py as subprocesses, on small real data."""

import json
import re
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.data import save, write_segmentation_set
from helpers.tiny import tiny_backbone
from helpers.tools import load_tool
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmseg.datasets import BaseSegDataset
from mmseg.engine import SegVisualizationHook
from mmseg.structures import SegDataSample
from PIL import Image

from mmvittm.apis.config import build_model, load_config
from mmvittm.datasets import BlueMarbleDataset
from mmvittm.engine import Bf16OptimWrapper
from mmvittm.errors import UserError
from mmvittm.evaluation import ClassIoUMetric
from mmvittm.weights.loading import load_checkpoint_file

ROOT = Path(__file__).parents[1]
DEMO = ROOT / 'configs/vittm/vittm-t_16-32_upernet_1xb8-demo_blue-marble-256x256.py'
ENTRY = ROOT / 'configs/vittm_upernet_ade20k.py'


def data_options(folder, batch_size):
    """Options that set the folder of a data set and load without workers."""
    options = [f'train_dataloader.batch_size={batch_size}']
    for loader in ('train', 'val', 'test'):
        options += [
            f'{loader}_dataloader.dataset.data_root={folder}',
            f'{loader}_dataloader.num_workers=0',
            f'{loader}_dataloader.persistent_workers=False',
        ]
    return options


@pytest.fixture(scope='module')
def trained(run_tool, few_tiles, tmp_path_factory):
    """Train the demo config for four iterations on Blue Marble, with data loader workers."""
    work_dir = tmp_path_factory.mktemp('work_dirs')
    options = [
        *data_options(few_tiles, 2),
        *(f'{loader}_dataloader.num_workers=1' for loader in ('train', 'val')),
        *(f'{loader}_dataloader.persistent_workers=True' for loader in ('train', 'val')),
        'train_cfg.max_iters=4',
        'train_cfg.val_interval=4',
        'default_hooks.checkpoint.interval=2',
        'default_hooks.checkpoint.max_keep_ckpts=2',
        'default_hooks.logger.interval=1',
    ]
    done = run_tool('train.py', DEMO, '--work-dir', work_dir, '--cfg-options', *options)
    assert done.returncode == 0, done.stderr
    return work_dir, options, done


def whole_log(work_dir):
    return '\n'.join(path.read_text() for path in work_dir.glob('*/*.log'))


def test_training_logs_validates_and_saves(trained):
    work_dir, _, done = trained
    log = whole_log(work_dir)
    assert re.search(r'Iter\(train\) \[4/4\].*loss: \d', log)
    assert re.search(r'Iter\(val\).*mIoU: [\d.]+.*IoU.polar', log)
    assert re.search(r'training 4/4 loss \d.* left', done.stdout), 'no progress'
    assert (work_dir / 'last_checkpoint').read_text().endswith('iter_4.pth')
    weights = load_checkpoint_file(work_dir / 'iter_4.pth')['state_dict']
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_finished_training_prints_no_traceback(trained):
    """The data loader workers end quietly."""
    assert 'Traceback' not in trained[2].stderr


def test_resume_without_a_default_hook(trained, run_tool):
    work_dir, options, _ = trained
    more = ['train_cfg.max_iters=5', 'default_hooks.stop_on_signal=None']  # of two values, the later one counts
    arguments = ['--resume', work_dir / 'iter_4.pth', '--cfg-options', *options, *more]
    done = run_tool('train.py', DEMO, '--work-dir', work_dir / 'resumed', *arguments)
    assert done.returncode == 0, done.stderr
    log = whole_log(work_dir / 'resumed')
    assert 'Iter(train) [5/5]' in log
    assert 'Iter(train) [4/5]' not in log
    assert 'StopOnSignalHook' not in log


@pytest.fixture(scope='module')
def tested(trained, run_tool, few_tiles):
    work_dir = trained[0]
    out, show = work_dir / 'out', work_dir / 'show'
    arguments = ['--work-dir', work_dir, '--out', out, '--show-dir', show]
    options = ['--cfg-options', *data_options(few_tiles, 2)]
    done = run_tool('test.py', DEMO, work_dir / 'iter_4.pth', *arguments, *options)
    assert done.returncode == 0, done.stderr
    return out, show


def test_metrics_of_the_saved_predictions(tested, few_tiles):
    """Compute the mIoU from the PNG files."""
    out, _ = tested
    metrics = json.loads((out / 'metrics.json').read_text())
    intersect, union = np.zeros(6), np.zeros(6)
    annotations = sorted((few_tiles / 'annotations' / 'validation').glob('*.png'))
    assert len(annotations) == 5
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


def test_iou_of_each_class():
    """Of all images together, not the mean of them; nan for a class that neither occurs nor is predicted."""
    metric = ClassIoUMetric()
    metric.dataset_meta = dict(classes=('sea', 'land', 'ice'))
    areas = [[[1, 2, 0], [4, 2, 0], [3, 2, 0], [2, 2, 0]], [[0, 0, 0], [1, 4, 0], [0, 4, 0], [1, 0, 0]]]
    metrics = metric.compute_metrics([tuple(map(torch.tensor, image)) for image in areas])
    assert {name: metrics[f'IoU.{name}'] for name in ('sea', 'land')} == dict(sea=20, land=33.33)
    assert np.isnan(metrics['IoU.ice'])


def test_metric_that_only_saves(tmp_path):
    assert ClassIoUMetric(format_only=True, output_dir=str(tmp_path)).compute_metrics([]) == {}


def test_predictions_are_aligned(trained, few_tiles):
    """A 300² tile, padded to whole patches of 32, has the logits of an image padded and cropped by hand."""
    config = load_config(DEMO)
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


def test_show_dir(tested):
    assert len(list(tested[1].rglob('*.png'))) == 5


def test_prediction_grid(tested, run_tool, few_tiles, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(f'_base_ = {str(DEMO)!r}\ntest_dataloader = dict(dataset=dict(data_root={str(few_tiles)!r}))')
    grid = tmp_path / 'grid.png'
    done = run_tool('prediction_grid.py', config, tested[0], '--out', grid, '--images', 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(str(grid))
    pixels = np.array(Image.open(grid).convert('RGB')).reshape(-1, 3)
    for colour in BlueMarbleDataset.METAINFO['palette']:
        assert (pixels == colour).all(1).any(), f'{colour} is missing'


@pytest.mark.parametrize('hook', ['mmseg.SegVisualizationHook', SegVisualizationHook])
def test_options_reach_wrapped_data_and_scoped_hooks(hook):
    tool, cfg = load_tool('test.py'), load_config(DEMO)
    cfg.test_dataloader.dataset = dict(type='RepeatDataset', times=1, dataset=cfg.test_dataloader.dataset)
    cfg.default_hooks.visualization.type = hook
    tool.use_tta(cfg)
    tool.draw_predictions(cfg, 'folder')
    assert cfg.test_dataloader.dataset.dataset.pipeline == cfg.tta_pipeline
    assert cfg.default_hooks.visualization.draw
    cfg.tta_pipeline = None
    with pytest.raises(UserError, match='--tta needs tta_pipeline'):
        tool.use_tta(cfg)


def test_the_given_checkpoint_is_tested(few_tiles, tmp_path, monkeypatch):
    """The config that a resumed training leaves in its folder says resume=True."""
    tool, seen = load_tool('test.py'), []
    monkeypatch.setattr(tool, 'build_runner', lambda cfg, *_: seen.append(cfg) or sys.exit())
    options = ['--work-dir', tmp_path, '--cfg-options', 'resume=True', *data_options(few_tiles, 2)]
    monkeypatch.setattr('sys.argv', ['test.py', *map(str, [DEMO, 'given.pth', *options])])
    with pytest.raises(SystemExit):
        tool.main()
    assert (seen[0].load_from, seen[0].resume) == ('given.pth', False)


@pytest.mark.parametrize('kind', ['OptimWrapper', OptimWrapper, 'mmvittm.Bf16OptimWrapper', Bf16OptimWrapper])
def test_mixed_precision_replaces_the_plain_wrapper(kind, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    cfg = Config(dict(optim_wrapper=dict(type=kind)))
    load_tool('train.py').use_amp(cfg)
    assert cfg.optim_wrapper.type == 'mmvittm.Bf16OptimWrapper'


def test_test_time_augmentation(trained, tested, run_tool, few_tiles):
    out = trained[0] / 'tta'
    options = ['--work-dir', out, '--out', out, '--cfg-options', *data_options(few_tiles, 2)]
    done = run_tool('test.py', DEMO, trained[0] / 'iter_4.pth', '--tta', *options)
    assert done.returncode == 0, done.stderr
    plain, augmented = (json.loads((folder / 'metrics.json').read_text()) for folder in (tested[0], out))
    assert augmented['mIoU'] != plain['mIoU']


def test_grid_has_the_classes_of_the_config(tmp_path):
    """Two of three classes, in the other order; a label map holds the old numbers, a prediction the new ones."""
    grid = load_tool('prediction_grid.py')
    files = {'images/a.jpg': np.zeros((2, 3, 3)), 'labels/a.png': [[0, 1, 2]] * 2, 'a.png': [[0, 1, 0]] * 2}
    for name, pixels in files.items():
        save(tmp_path / name, np.uint8(pixels))
    dataset = dict(
        type='mmseg.BaseSegDataset', data_root=str(tmp_path),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        metainfo=dict(classes=('c', 'a'), palette=[[1] * 3, [2] * 3]),
    )  # fmt: skip
    cfg = Config(dict(default_scope='mmseg', test_dataloader=dict(dataset=dataset)))
    with mock.patch.object(BaseSegDataset, 'METAINFO', dict(classes=('a', 'b', 'c'), palette=[[0] * 3] * 3)):
        [(name, _, truth, prediction)] = grid.columns(cfg, grid.test_set(cfg), tmp_path, 1)
    assert name == 'a'
    np.testing.assert_array_equal(truth, [[1, 255, 0]] * 2)
    np.testing.assert_array_equal(prediction, [[0, 1, 0]] * 2)


@pytest.fixture(scope='module')
def tiny_ade(tmp_path_factory):
    """Write a data set like ADE20K: labels 0 (unlabelled) to 150."""
    return write_segmentation_set(tmp_path_factory.mktemp('data') / 'ade', (72, 96), num_labels=151, suffix='.jpg')


def test_entry_config(run_tool, tiny_ade, tmp_path):
    """With a narrow model; every config is built in full on the meta device elsewhere."""
    options = [
        *data_options(tiny_ade, 2),
        'model.backbone.arch=tiny',
        'model.neck.embed_dim=192',
        'model.decode_head.in_channels=[192,192,192,192]',
        'model.decode_head.channels=32',
        'model.auxiliary_head.in_channels=192',
        'train_cfg.max_iters=1',
        'train_cfg.val_interval=1',
        'val_dataloader.dataset.indices=1',
        'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.save_best=None',
        'default_hooks.checkpoint.save_last=False',
    ]
    done = run_tool('train.py', ENTRY, '--work-dir', tmp_path, '--cfg-options', *options)
    assert done.returncode == 0, done.stderr
    assert 'training 1/1' in done.stdout
    assert 'mIoU' in done.stdout


def test_classifier(run_tool, tmp_path):
    """An mmpretrain config with a ViTTM backbone learns to tell dark from light images."""
    generator = np.random.default_rng(0)
    for name, mean in (('dark', 60), ('light', 200)):
        for index in range(4):
            pixels = generator.normal(mean, 20, (32, 32, 3)).clip(0, 255)
            save(tmp_path / 'train' / name / f'{index}.png', pixels)
    config = tmp_path / 'classifier.py'
    config.write_text(f"""
custom_imports = dict(imports=['mmvittm'])
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(num_classes=2, mean=[128.0] * 3, std=[64.0] * 3, to_rgb=True),
    backbone={tiny_backbone(img_size=32)!r},
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=16))
train_dataloader = dict(
    batch_size=4,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='CustomDataset', data_root={str(tmp_path)!r}, data_prefix='train',
                 pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]))
val_dataloader = test_dataloader = train_dataloader
val_evaluator = test_evaluator = dict(type='Accuracy', topk=1)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.002))
train_cfg = dict(by_epoch=True, max_epochs=15, val_interval=15)
val_cfg, test_cfg = dict(), dict()
""")
    done = run_tool('train.py', config, '--work-dir', tmp_path / 'work')
    assert done.returncode == 0, done.stderr
    accuracy = re.search(r'Trained 30 iterations: accuracy/top1 ([\d.]+)', done.stdout)
    assert float(accuracy[1]) == 100
