"""tools/image_demo.py on pictures of mixed sizes, a broken one among them, and on a video."""

import re

import cv2
import numpy as np
import pytest
import torch
from helpers.deployment import call_tool, make_models, needs_torch_export, photograph
from mmengine.registry import DefaultScope
from mmseg.apis import inference_model
from PIL import Image

from mmvittm.apis.config import load_config
from mmvittm.deploy.images import read_image
from mmvittm.deploy.predict import EagerPredictor
from mmvittm.errors import UserError

BLUE, GREEN = (0, 0, 255), (0, 128, 0)


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp('models'))


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / 'pictures'
    folder.mkdir()
    Image.fromarray(photograph(30, 50)).save(folder / 'small.png')
    Image.fromarray(photograph(400, 200)).save(folder / 'tall.jpg')
    Image.fromarray(photograph(64, 64)[..., 0]).save(folder / 'grey.png')
    (folder / 'broken.png').write_bytes((folder / 'small.png').read_bytes()[:60])
    (folder / 'notes.txt').write_text('no picture')
    return folder


@pytest.fixture
def video(tmp_path):
    path = tmp_path / 'film.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 5, (48, 32))
    for seed in range(4):
        writer.write(photograph(32, 48, seed))
    writer.release()
    return path


def test_a_broken_picture_among_many_is_reported_in_the_end(models, pictures, tmp_path, run_tool):
    out = tmp_path / 'out'
    done = run_tool('image_demo.py', pictures, models / 'segmentor.py', models / 'segmentor.pth', '--out', out)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.fullmatch(r'error: 1 of 4 files were left out: image \S+broken.png cannot be read: .*', last)
    assert sorted(path.name for path in out.iterdir()) == ['grey.png', 'small.png', 'tall.jpg']
    assert '3 of 4 files painted' in done.stdout


def test_the_picture_is_painted_beside_a_legend(models, pictures, tmp_path, monkeypatch):
    source, out = pictures / 'small.png', tmp_path / 'out'
    checkpoint = models / 'segmentor.pth'
    call_tool(monkeypatch, 'image_demo.py', source, models / 'segmentor.py', checkpoint, '--out', out)
    painted, image = np.array(Image.open(out / 'small.png')), np.array(Image.open(source))
    labels = EagerPredictor(models / 'segmentor.py', checkpoint)(read_image(source))
    palette = np.array([BLUE, GREEN, (255, 255, 255)])
    assert np.abs(painted[:30, :50] - (image * 0.5 + palette[labels] * 0.5)).max() <= 1
    legend = painted[:, 50:].reshape(-1, 3)
    for index, colour in enumerate((BLUE, GREEN)):
        assert (legend == colour).all(1).any() == (index in labels), 'the legend has what is in the picture'


def test_mmseg_sees_the_same(models):
    predict = EagerPredictor(models / 'segmentor.py', models / 'segmentor.pth')
    predict.model.cfg = cfg = load_config(models / 'segmentor.py')
    cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
    image = photograph(50, 70)
    with DefaultScope.overwrite_default_scope('mmseg'):
        expected = inference_model(predict.model, image).pred_sem_seg.data[0].numpy()
    assert len(np.unique(expected)) > 1
    assert np.array_equal(predict(image), expected)


def test_a_classifier_names_its_classes(models, pictures, tmp_path, monkeypatch):
    out = tmp_path / 'out'
    source = pictures / 'small.png'
    call_tool(monkeypatch, 'image_demo.py', source, models / 'classifier.py', models / 'classifier.pth', '--out', out)
    painted = np.array(Image.open(out / 'small.png'))
    assert np.array_equal(painted[:30, :50], np.array(Image.open(source)))
    rows = (painted[:, 50:] < 128).any((1, 2))
    assert np.count_nonzero(np.diff(rows.astype(int)) == 1) == 5, 'five lines of text'


def test_a_classifier_takes_the_pipeline_of_its_config(models):
    predict = EagerPredictor(models / 'classifier.py', models / 'classifier.pth')
    image = photograph(24, 24)
    inputs = (torch.from_numpy(image.transpose(2, 0, 1).copy()).float() - 127.5) / 127.5
    with torch.no_grad():
        expected = predict.model(inputs[None], mode='tensor').softmax(1)[0].numpy()
    np.testing.assert_allclose(predict(image), expected, atol=1e-6)


@needs_torch_export
def test_a_video_is_painted_by_an_exported_file(models, video, tmp_path, monkeypatch):
    pytest.importorskip('openvino')
    options = ['--format', 'openvino', '--shape', 24, 32, '--out', tmp_path / 'exported']
    config, checkpoint = models / 'segmentor.py', models / 'segmentor.pth'
    call_tool(monkeypatch, 'deployment/export.py', config, checkpoint, *options)
    exported = tmp_path / 'exported' / 'segmentor_24x32_fp32.xml'
    call_tool(monkeypatch, 'image_demo.py', video, exported, '--out', tmp_path / 'out')
    painted = cv2.VideoCapture(str(tmp_path / 'out' / 'film.avi.mp4'))
    frames = 0
    while painted.read()[0]:
        frames += 1
    assert frames == 4
    assert painted.get(cv2.CAP_PROP_FRAME_WIDTH) > 48


BAD_ARGUMENTS = {
    'no source': (['{tmp}/none.png', '{models}/segmentor.py', '{models}/segmentor.pth'], 'not found: .*none.png'),
    'a source of another kind': (['{models}/segmentor.py', '{models}/segmentor.py'], 'is or holds no image or video'),
    'a folder without pictures': (['{tmp}', '{models}/segmentor.py'], 'is or holds no image or video'),
    'no checkpoint': (['{data}', '{models}/segmentor.py'], 'needs a checkpoint'),
    'a checkpoint too many': (['{data}', 'a.onnx', '{models}/segmentor.pth'], 'leave the checkpoint .* out'),
    'no exported file': (['{data}', '{tmp}/none.xml'], 'exported model not found'),
    'the source as target': (['{data}', 'a.onnx', '--out', '{data}'], 'folder of the pictures themselves'),
    'an unwritable target': (
        ['{data}', '{models}/segmentor.py', '{models}/segmentor.pth', '--out', '{models}/segmentor.py'],
        'cannot write to',
    ),
}


@pytest.mark.parametrize(('arguments', 'problem'), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments_are_said_in_one_sentence(models, monkeypatch, tmp_path, arguments, problem):
    pytest.importorskip('openvino')
    names = dict(models=models, tmp=tmp_path, data=models / 'data' / 'images')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=problem) as raised:
        call_tool(monkeypatch, 'image_demo.py', *(argument.format(**names) for argument in arguments))
    assert '\n' not in str(raised.value)
