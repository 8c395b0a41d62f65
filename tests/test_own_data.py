"""Every block of docs/own-data.md, on four small images and with trainings of two iterations."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import mmseg
import numpy as np
import pytest
import torch
from conftest import ROOT
from helpers.data import save, write_segmentation_set
from helpers.tiny import one_thread  # noqa: F401
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.utils import digit_version
from mmseg.visualization import SegLocalVisualizer
from PIL import Image

import mmvittm
from mmvittm.__main__ import main
from mmvittm.apis.config import build_model, load_config

PAGE = (ROOT / 'docs/own-data.md').read_text()
BLOCKS = re.findall(r'^```(\w+)\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL)
CONFIG, LOADER, CLASSIFIER = (
    next(text for _, text in BLOCKS if text.startswith(f'# {name}'))
    for name in ('my_config', 'load_npy', 'my_classifier')
)
VARIATIONS = [
    text
    for kind, text in BLOCKS
    if kind == 'python' and text not in (CONFIG, LOADER, CLASSIFIER) and 'inference_model' not in text
]
TOOLS = Path(mmseg.__path__[0], '.mim/tools/analysis_tools')
QUICK = """
_base_ = './page.py'
train_pipeline = _base_.train_pipeline
train_pipeline[3].crop_size = (64, 64)
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = (64, 64)
loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=train_pipeline), **loader)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline), **loader)
test_dataloader = val_dataloader
model = dict(data_preprocessor=dict(size=(64, 64)), backbone=dict(img_size=64))
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(logger=dict(interval=1))
"""


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """A user's folder: the data, the page's config with smaller numbers, the page's module."""
    folder = tmp_path_factory.mktemp('project')
    generator = np.random.default_rng(0)
    for split, names in (('train', ('0001', '0003')), ('val', ('0002', '0004'))):
        for name in names:
            image = generator.integers(0, 256, (64, 64, 3))
            save(folder / f'data/mine/images/{split}/{name}.jpg', image)
            np.save(folder / f'data/mine/images/{split}/{name}.npy', generator.integers(0, 256, (64, 64, 5)))
            save(folder / f'data/mine/labels/{split}/{name}.png', generator.integers(0, 2, (64, 64)))
    (folder / 'page.py').write_text(CONFIG)
    (folder / 'my_config.py').write_text(QUICK)
    (folder / 'load_npy.py').write_text(LOADER)
    return folder


@pytest.fixture
def shell(project, monkeypatch):
    """Run a line of a bash block in this process, since an import takes seconds."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, 'path', [*sys.path])
    monkeypatch.setenv('MPLBACKEND', 'Agg')

    def run(line):
        for each in (MMLogger, MessageHub, SegLocalVisualizer):  # mmengine allows each name once per process
            each._instance_dict.clear()
        line = line.replace('iter_4000', 'iter_2').replace('$TOOLS', str(TOOLS))
        globbed = [sorted(map(str, Path().glob(word))) if '*' in word else [word] for word in shlex.split(line)]
        program, *words = [word for words in globbed for word in words]
        script = main if program == 'mmvittm' else lambda: runpy.run_path(words[0], run_name='__main__')
        monkeypatch.setattr(sys, 'argv', [program, *words] if program == 'mmvittm' else words)
        script()

    return run


def lines_of(section):
    text = PAGE[PAGE.index(section) :]
    return re.search(r'```bash\n(.*?)```', text, re.DOTALL)[1].splitlines()


@pytest.fixture
def trained(shell, project, capfd):
    if not (project / 'work_dirs/my_config/iter_2.pth').is_file():
        shell('mmvittm train my_config.py')
    return project


def test_the_commands(shell, trained, capfd):
    train, *others = lines_of('## The config')
    assert train == 'mmvittm train my_config.py'
    for line in others:
        shell(line)
    assert 'resuming from work_dirs/my_config/iter_2.pth' in capfd.readouterr().out
    painted = np.array(Image.open(trained / 'tested/0002.png'))
    assert painted.shape == (64, 64) and painted.max() <= 2
    assert (trained / 'tested/metrics.json').is_file()
    assert len([*(trained / 'painted').rglob('000*')]) >= 2
    (published,) = trained.glob('my-model-*.pth')
    assert torch.load(published, weights_only=True)['meta']['dataset_meta']['classes'] == ('ground', 'road', 'roof')
    assert build_model(load_config('my_config.py')).decode_head.num_classes == 3


def test_the_classifier(shell, project, capfd):
    for split in ('train', 'val'):
        for index, name in enumerate(('cat', 'dog', 'emu')):
            save(project / f'data/pets/{split}/{name}/1.jpg', np.full((150, 170, 3), 80 * index))
    (project / 'my_classifier.py').write_text(CLASSIFIER)
    train, test = lines_of('## Classification')
    shell(f'{train} --cfg-options train_cfg.max_epochs=1 param_scheduler.1.end=1 default_hooks.checkpoint.interval=1')
    shell(test.replace('epoch_30', 'epoch_1'))
    assert 'process/top1' in capfd.readouterr().out
    (project / 'top5.py').write_text(
        "_base_ = 'my_classifier.py'\nval_evaluator = [dict(type='Accuracy', topk=(1, 5))]"
    )
    with pytest.raises(SystemExit, match=r'val_evaluator\.0: topk of 5 with 3 classes: set topk='):
        shell('mmvittm train top5.py')


def test_a_label_beyond_the_classes_is_named(shell, project, tmp_path):
    label = project / 'data/mine/labels/train/0001.png'
    before = label.read_bytes()
    save(label, np.full((64, 64), 3))
    try:
        with pytest.raises(SystemExit, match=r'error: .*0001\.png.* 3'):
            shell(f'mmvittm train my_config.py --work-dir {tmp_path}')
    finally:
        label.write_bytes(before)


@pytest.mark.parametrize('block', VARIATIONS, ids=range(len(VARIATIONS)))
def test_variation_trains_and_predicts(shell, project, tmp_path, block, capfd):
    (project / 'variation.py').write_text(f"_base_ = './my_config.py'\n{block}")
    shell(f'mmvittm train variation.py --work-dir {tmp_path}')
    assert 'Trained 2 iterations: aAcc' in capfd.readouterr().out
    cfg = load_config('variation.py')
    if 'out_channels=1' in block:
        shell(
            f'mmvittm predict data/mine/images/val/0002.jpg variation.py {tmp_path}/iter_2.pth --out {tmp_path}/painted'
        )
    if 'frozen_stages' in block:
        model = build_model(cfg)
        assert not any(parameter.requires_grad for parameter in model.backbone.layers.parameters())
    if 'Tensorboard' in block:
        assert [*tmp_path.rglob('events.out.tfevents*')]
    if 'EarlyStopping' in block:
        assert [hook['type'] for hook in cfg.custom_hooks] == ['EMAHook', 'EarlyStoppingHook']


def test_every_variation_is_found():
    assert len(VARIATIONS) == 9


def test_probability_maps(trained, monkeypatch):
    monkeypatch.chdir(trained)
    (block,) = (text for kind, text in BLOCKS if text.startswith('from mmseg.apis'))
    names = {}
    exec(block.replace('iter_4000', 'iter_2'), names)
    assert names['probabilities'].shape == (3, 64, 64)
    torch.testing.assert_close(names['probabilities'].sum(0), torch.ones(64, 64))


@pytest.mark.skipif(
    digit_version(mmseg.__version__) < digit_version('1.3'),
    reason='browse_dataset.py and get_flops.py of mmseg 1.2 fail with OpenCV 4.11 and mmengine 0.10',
)
def test_tools_of_mmsegmentation(shell, trained, capfd):
    pytest.importorskip('seaborn')
    assignment, *lines = lines_of('## Tools of MMSegmentation')
    assert assignment.endswith('.mim/tools/analysis_tools')
    for line in lines:
        shell(line)
    assert {path.name for path in (trained / 'browsed').iterdir()} == {'0001.jpg', '0003.jpg'}
    assert (trained / 'loss.png').stat().st_size > 1000
    assert re.search(r'Params: [\d.]+M', capfd.readouterr().out)


def test_confusion_matrix_on_blue_marble(shell, tmp_path):
    write_segmentation_set(tmp_path / 'set', (32, 32), 6)
    config = mmvittm.config_file('vittm/vittm-t_16-32_upernet_1xb8-demo_blue-marble-256x256.py')
    labels = tmp_path / 'set/annotations/validation'
    option = f'test_dataloader.dataset.data_root={tmp_path}/set'
    shell(f'python {TOOLS}/confusion_matrix.py {config} {labels} {tmp_path}/matrix --cfg-options {option}')
    assert (tmp_path / 'matrix/confusion_matrix.png').is_file()
    assert Config.fromfile(config).test_dataloader.dataset.type == 'mmvittm.BlueMarbleDataset'
