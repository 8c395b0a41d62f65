"""tools/image_demo.py on images of several sizes, one of them broken, and on a video."""

import re

import cv2
import mmcv
import numpy as np
import pytest
import torch
from helpers.deployment import make_models, photograph, write_onnx
from helpers.tools import call_tool
from mmseg.structures import SegDataSample
from PIL import Image

from mmvittm.apis.cli import known_problem
from mmvittm.apis.config import load_config
from mmvittm.apis.inference import eager_predictor, load_model, read_image
from mmvittm.apis.tasks import TASKS
from mmvittm.errors import UserError

BLUE, GREEN = (0, 0, 255), (0, 128, 0)


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp('models'))


@pytest.fixture(scope='module')
def segmentor(models):
    return eager_predictor(models / 'segmentor.py', models / 'segmentor.pth')


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    Image.fromarray(photograph(30, 50)).save(folder / 'small.png')
    Image.fromarray(photograph(400, 200)).save(folder / 'tall.JPG')
    Image.fromarray(photograph(64, 64)[..., 0]).save(folder / 'grey.png')
    (folder / 'broken.png').write_bytes((folder / 'small.png').read_bytes()[:60])
    (folder / 'notes.txt').write_text('not an image')
    return folder


@pytest.fixture
def video(tmp_path):
    path = tmp_path / 'film.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 5, (48, 32))
    for seed in range(4):
        writer.write(photograph(32, 48, seed))
    writer.release()
    return path


def test_a_broken_image_is_reported_at_the_end(models, images, tmp_path, run_tool):
    out = tmp_path / 'out'
    done = run_tool('image_demo.py', images, models / 'segmentor.py', models / 'segmentor.pth', '--out', out)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.fullmatch(r'error: 1 of 4 files failed: image \S+broken.png cannot be read: .*', last)
    assert sorted(path.name for path in out.iterdir()) == ['grey.png', 'small.png', 'tall.JPG']
    assert '3 of 4 files painted' in done.stdout


def test_odd_images_do_not_stop_the_others(models, tmp_path, monkeypatch, capfd):
    folder = tmp_path / '['  # so that the path of x] reads as markup
    folder.mkdir()
    for name in ('a.png', 'x].png'):
        Image.fromarray(photograph(30, 50)).save(folder / name)
    (folder / 'empty.png').touch()
    (folder / '._a.png').write_bytes(b'Mac')
    Image.fromarray(photograph(1, 3000)).save(folder / 'line.png')
    model = models / 'segmentor.py', models / 'segmentor.pth'
    with pytest.raises(UserError, match=r'^2 of 4 files failed: see above'):
        call_tool(monkeypatch, 'image_demo.py', folder, *model, '--out', tmp_path / 'out')
    said = capfd.readouterr().err
    assert re.search(r'empty\.png cannot be read', said) and re.search(r'line\.png of 1×3000 pixels', said)
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['a.png', 'x].png']


def test_an_image_is_painted_beside_its_legend(models, segmentor, images, tmp_path, monkeypatch):
    source, out = images / 'small.png', tmp_path / 'out'
    call_tool(monkeypatch, 'image_demo.py', source, models / 'segmentor.py', models / 'segmentor.pth', '--out', out)
    painted, image = np.array(Image.open(out / 'small.png')), np.array(Image.open(source))
    labels = segmentor.predict(read_image(source))
    palette = np.array([BLUE, GREEN, (255, 255, 255)])
    assert np.abs(painted[:30, :50] - (image * 0.5 + palette[labels] * 0.5)).max() <= 1
    legend = painted[:, 50:].reshape(-1, 3)
    for index, colour in enumerate((BLUE, GREEN)):
        assert (legend == colour).all(1).any() == (index in labels), 'the legend has the classes in the image'


def test_the_legend_gives_shares_of_the_pixels(segmentor):
    labels = np.array([[2, 2, 2], [0, 2, 0]], np.uint8)
    _, legend = segmentor.task.draw(photograph(2, 3), labels, segmentor.classes, segmentor.palette)
    assert legend == [((255, 255, 255), 'ice 67%'), (BLUE, 'sea 33%')]


def test_the_likeliest_class_comes_first():
    scores, classes = np.array([0.02, 0.5, 0.04, 0.3, 0.06, 0.08]), 'abcdef'
    _, legend = TASKS['classification'].draw(photograph(2, 3), scores, classes, [])
    assert [text for _, text in legend] == ['50% b', '30% d', '8% f', '6% e', '4% c']


def write_wrapped(models):
    """Write `wrapped.py`, the segmentor's config with its test data in a wrapper and a scope before a type."""
    cfg = load_config(models / 'segmentor.py')
    cfg.test_dataloader.dataset.pipeline[2].type = 'mmseg.LoadAnnotations'
    cfg.test_dataloader.dataset = dict(type='RepeatDataset', times=1, dataset=cfg.test_dataloader.dataset)
    cfg.dump(models / 'wrapped.py')


@pytest.mark.parametrize('source', ['images/small.png', 'film.avi'])
def test_full_disk_leaves_nothing(models, images, video, full_disk, tmp_path, monkeypatch, source):
    arguments = (tmp_path / source, models / 'segmentor.py', models / 'segmentor.pth', '--out', tmp_path / 'out')
    with pytest.raises((OSError, UserError)) as caught:
        call_tool(monkeypatch, 'image_demo.py', *arguments)
    assert 'cannot be written' in known_problem(caught.value)
    assert not list((tmp_path / 'out').iterdir())


@pytest.mark.parametrize('config', ['segmentor', 'wrapped'])
def test_a_segmentor_uses_the_test_pipeline(models, config):
    write_wrapped(models)
    image = photograph(50, 70)
    resized = mmcv.imrescale(image, (32, 24))  # the scale in the config
    model, _ = load_model(load_config(models / 'segmentor.py'), models / 'segmentor.pth')
    sample = SegDataSample(metainfo=dict(img_shape=resized.shape[:2], ori_shape=image.shape[:2]))
    with torch.no_grad():
        data = dict(inputs=[torch.from_numpy(resized.transpose(2, 0, 1).copy())], data_samples=[sample])
        expected = model.test_step(data)[0].pred_sem_seg.data[0].numpy()
    assert len(np.unique(expected)) > 1
    predictor = eager_predictor(models / f'{config}.py', models / 'segmentor.pth')
    assert np.array_equal(predictor.predict(image), expected)


def test_a_classifier_uses_the_test_pipeline(models):
    image = photograph(24, 24)
    model, _ = load_model(load_config(models / 'classifier.py'), models / 'classifier.pth')
    inputs = (torch.from_numpy(image.transpose(2, 0, 1).copy()).float() - 127.5) / 127.5
    with torch.no_grad():
        expected = model(inputs[None], mode='tensor').softmax(1)[0].numpy()
    got = eager_predictor(models / 'classifier.py', models / 'classifier.pth').predict(image)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_config_without_test_data_is_refused(models):
    (models / 'no_data.py').write_text("_base_ = ['classifier.py']\ntest_dataloader = None\ntest_pipeline = None\n")
    with pytest.raises(UserError, match=r'no_data\.py has no test_dataloader or test_pipeline'):
        eager_predictor(models / 'no_data.py', models / 'classifier.pth')


def test_test_pipeline_is_enough(models):
    """A config for prediction alone has no data set."""
    steps = load_config(models / 'classifier.py').test_dataloader.dataset.pipeline
    text = f"_base_ = ['classifier.py']\ntest_dataloader = None\ntest_pipeline = {[dict(step) for step in steps]!r}\n"
    (models / 'predict_only.py').write_text(text)
    scores = [
        eager_predictor(models / f'{name}.py', models / 'classifier.pth').predict(photograph(24, 24))
        for name in ('classifier', 'predict_only')
    ]
    np.testing.assert_array_equal(*scores)


def test_a_classifier_lists_its_classes(models, images, tmp_path, monkeypatch):
    out = tmp_path / 'out'
    source = images / 'small.png'
    call_tool(monkeypatch, 'image_demo.py', source, models / 'classifier.py', models / 'classifier.pth', '--out', out)
    painted = np.array(Image.open(out / 'small.png'))
    assert np.array_equal(painted[:30, :50], np.array(Image.open(source)))
    rows = (painted[:, 50:] < 128).any((1, 2))
    assert np.count_nonzero(np.diff(rows.astype(int)) == 1) == 5, 'five lines of text'


def test_a_video_is_painted_by_an_exported_file(video, tmp_path, monkeypatch):
    pytest.importorskip('onnxruntime')
    write_onnx(tmp_path / 'segmentor.onnx')
    call_tool(monkeypatch, 'image_demo.py', video, tmp_path / 'segmentor.onnx', '--out', tmp_path / 'out')
    painted = cv2.VideoCapture(str(tmp_path / 'out' / 'film.avi.mp4'))
    frames = 0
    while painted.read()[0]:
        frames += 1
    assert frames == 4
    assert painted.get(cv2.CAP_PROP_FRAME_WIDTH) > 48


BAD_ARGUMENTS = {
    'no source': (['{tmp}/none.png', '{models}/segmentor.py', '{models}/segmentor.pth'], 'not found: .*none.png'),
    'a source of another kind': (['{models}/segmentor.py', '{models}/segmentor.py'], 'no image or video .* in'),
    'a folder without images': (['{tmp}', '{models}/segmentor.py'], 'no image or video .* in'),
    'no checkpoint': (['{data}', '{models}/segmentor.py'], 'needs a checkpoint'),
    'one checkpoint too many': (['{data}', 'a.onnx', '{models}/segmentor.pth'], 'leave out the checkpoint'),
    'no exported file': (['{data}', '{tmp}/none.xml'], 'exported model not found'),
    'another device for an exported file': (['{data}', 'a.onnx', '--device', 'meta'], 'leave out the device meta'),
    'the source as target': (['{data}', 'a.onnx', '--out', '{data}'], 'folder of the images: choose another'),
    'an unwritable target': (
        ['{data}', '{models}/segmentor.py', '{models}/segmentor.pth', '--out', '{models}/segmentor.py'],
        'cannot write to',
    ),
}


@pytest.mark.parametrize(('arguments', 'problem'), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments_are_refused(models, monkeypatch, tmp_path, arguments, problem):
    pytest.importorskip('openvino')
    names = dict(models=models, tmp=tmp_path, data=models / 'data' / 'images')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=problem) as raised:
        call_tool(monkeypatch, 'image_demo.py', *(argument.format(**names) for argument in arguments))
    assert '\n' not in str(raised.value)
