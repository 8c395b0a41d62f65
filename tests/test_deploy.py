"""Exported models give the numbers of the models they were made from, or are not written."""

import json
import sys

import numpy as np
import pytest
import torch
from helpers.deployment import call_tool, make_models, needs_torch_export, photograph
from helpers.tiny import images, one_thread, randomize, tiny_vittm
from mmengine.dataset import pseudo_collate
from mmpretrain.models import VisionTransformer
from mmseg.structures import SegDataSample
from torch import nn

from mmvittm.apis.config import load_config
from mmvittm.apis.tasks import inference_network
from mmvittm.deploy import FORMATS, verify
from mmvittm.deploy.images import read_image
from mmvittm.deploy.metadata import ModelCard
from mmvittm.deploy.predict import EagerPredictor, ExportedPredictor, load_model, run_exported
from mmvittm.deploy.preprocess import FITS, prepare
from mmvittm.deploy.program import export_program
from mmvittm.errors import UserError

for package in ('onnx', 'onnxscript', 'onnxruntime', 'openvino'):
    pytest.importorskip(package)
pytestmark = needs_torch_export
__all__ = ['one_thread']

NATIVE, OTHER = (16, 16), (24, 40)
METADATA = dict(classes=['sea "blue"', '<ice & snow>', 'Ödland'], palette=[[0, 1, 2]], nothing=None)


class Backbone(nn.Module):
    """What the formats take: one tensor in, tensors out."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, image):
        return self.backbone(image)


def tiny_network(name, folder):
    if name in ('segmentor', 'classifier'):
        return inference_network(load_model(load_config(folder / f'{name}.py'), folder / f'{name}.pth')[0])
    if name == 'ViT':
        arch = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32)
        vit = VisionTransformer(arch, img_size=16, patch_size=8, out_type='featmap')
        network = Backbone(randomize(vit))
    else:
        vittm = tiny_vittm('CrossAttention', embeds='pooled_process', num_layers=1, out_stream='concat')
        network = Backbone(vittm)
    network.eval()
    return network


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp('models'))


@pytest.fixture(scope='module')
def export(models, tmp_path_factory):
    """``export(network name, format, size)`` -> network, path of the file; made once each."""
    made, folder = {}, tmp_path_factory.mktemp('exported')

    def run(name, format_name, size):
        key = (name, format_name, size)
        if key not in made:
            network = tiny_network(name, models)
            path = folder / f'{len(made)}{FORMATS[format_name].suffix}'
            FORMATS[format_name].export(network, images(1, *size), path, metadata=METADATA)
            made[key] = network, path
        return made[key]

    return run


# Classifiers, and the native size, are exported by the tool below, which checks them itself.
@pytest.mark.parametrize(
    ('name', 'format_name', 'size'),
    [
        ('segmentor', 'onnx', OTHER),
        ('segmentor', 'openvino', OTHER),
        ('cross attention, pooled', 'onnx', NATIVE),
        ('cross attention, pooled', 'openvino', OTHER),
        ('ViT', 'openvino', OTHER),
    ],
)
def test_an_export_gives_the_same_numbers_at_any_batch_size(export, format_name, name, size):
    network, path = export(name, format_name, size)
    session = FORMATS[format_name].load(path, threads=1)
    for batch in (1, 3):
        x = images(batch, *size, seed=batch)
        with torch.no_grad():
            expected = verify.outputs_of(network, x)
        got = session(x.numpy())
        assert len(got) == len(expected)
        for ours, theirs in zip(got, expected, strict=True):
            assert ours.shape == theirs.shape
            assert verify.relative_error(ours, theirs) < 1e-5


def test_bf16_is_coarser_than_fp32_and_close(export):
    network, path = export('segmentor', 'openvino', OTHER)
    x = images(2, *OTHER)
    with torch.no_grad():
        expected = verify.outputs_of(network, x)[0]
    got = FORMATS['openvino'].load(path, dtype='bf16', threads=1)(x.numpy())[0]
    assert verify.relative_error(got, expected) < 0.1


@pytest.mark.parametrize('name', ['segmentor', 'ViT'])
def test_positions_are_constants_of_the_graph(models, name):
    network = tiny_network(name, models)
    parameters = dict(network.named_parameters())
    program = export_program(network, images(1, *OTHER))
    assert not [node for node in program.graph.nodes if 'bicubic' in str(node.target)]
    with torch.no_grad():
        before = verify.outputs_of(tiny_network(name, models), images())
        assert all(np.array_equal(*pair) for pair in zip(verify.outputs_of(network, images()), before, strict=True))
    assert all(value is parameters[key] for key, value in network.named_parameters()), 'the network has changed'


@pytest.mark.parametrize('format_name', FORMATS)
def test_metadata_comes_back(export, format_name):
    _, path = export('segmentor', format_name, OTHER)
    assert FORMATS[format_name].load(path).metadata == METADATA | dict(dtype='fp32')


@pytest.mark.parametrize('fit', FITS)
@pytest.mark.parametrize('size', [(24, 40), (7, 900), (900, 7), (1, 1), (333, 500)])
def test_images_of_any_size_fit(fit, size):
    fitted = FITS[fit](photograph(*size), OTHER)
    assert all(have <= want for have, want in zip(fitted.shape, OTHER, strict=False))
    if fit == 'centre':
        assert fitted.shape[:2] == OTHER
    else:
        assert fitted.shape[0] == OTHER[0] or fitted.shape[1] == OTHER[1]


@pytest.fixture(scope='module')
def exported(models, tmp_path_factory):
    """Folder, and the files that the tool itself makes of both models."""
    out = tmp_path_factory.mktemp('out')
    with pytest.MonkeyPatch.context() as patch:
        for name, format_name in (('segmentor', 'openvino'), ('classifier', 'onnx')):
            call_tool(patch, 'deployment/export.py', *arguments(models, name, out, format_name))
    return out


def arguments(models, name, out, format_name='openvino', shape=(24, 32)):
    config, checkpoint = models / f'{name}.py', models / f'{name}.pth'
    return [config, checkpoint, '--format', format_name, '--shape', *shape, '--out', out]


def test_the_tool_writes_nothing_but_the_export(exported):
    names = sorted(path.name for path in exported.iterdir())
    assert names == ['classifier_24x32_fp32.onnx', 'segmentor_24x32_fp32.bin', 'segmentor_24x32_fp32.xml']


def test_an_export_tells_how_to_use_it(exported, models):
    path = exported / 'segmentor_24x32_fp32.xml'
    card = ExportedPredictor(path).card
    assert card.classes == ('sea', 'land', 'ice')
    assert card.palette[1] == (0, 128, 0)
    assert (card.task, card.shape, card.channel_order, card.fit) == ('segmentation', (24, 32), 'rgb', 'inside')
    assert card.mean == pytest.approx((120, 115, 100))
    assert (card.config, card.checkpoint) == ('segmentor', 'segmentor.pth')
    assert ModelCard.from_dict(json.loads(json.dumps(card.as_dict())), path) == card


def test_an_image_is_prepared_as_the_model_does_it(exported, models):
    model, _ = load_model(load_config(models / 'segmentor.py'), None)
    image = photograph(24, 32)
    inputs = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    data = dict(inputs=[inputs], data_samples=[_sample()])
    expected = model.data_preprocessor(data)['inputs'][0].numpy()
    got, content = prepare(image, ExportedPredictor(exported / 'segmentor_24x32_fp32.xml').card)
    assert content == (24, 32)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def _sample():
    return SegDataSample(metainfo=dict(img_shape=(24, 32), ori_shape=(24, 32)))


@pytest.mark.parametrize(
    ('name', 'file'), [('segmentor', 'segmentor_24x32_fp32.xml'), ('classifier', 'classifier_24x32_fp32.onnx')]
)
def test_an_export_predicts_what_the_model_does(exported, models, name, file):
    predict = ExportedPredictor(exported / file)
    eager = EagerPredictor(models / f'{name}.py', models / f'{name}.pth')
    assert tuple(eager.classes) == tuple(predict.classes)
    image = read_image(models / 'data' / 'images' / '0.png')
    got, expected = predict(image), eager(image)
    assert got.shape == expected.shape
    if name == 'segmentor':  # one resize by OpenCV, one by mmcv
        assert (got == expected).mean() > 0.98
        assert len(np.unique(expected)) > 1
    else:
        assert got.sum() == pytest.approx(1, abs=1e-5)


def test_an_export_takes_the_place_of_the_network_in_a_model(exported, models):
    cfg = load_config(models / 'segmentor.py')
    model, _ = load_model(cfg, models / 'segmentor.pth')
    replaced, _ = load_model(cfg, None)
    predict = ExportedPredictor(exported / 'segmentor_24x32_fp32.xml')
    run_exported(replaced, predict.session, predict.card)
    inputs = torch.from_numpy(photograph(24, 32).transpose(2, 0, 1).copy())
    results = []
    for each in (model, replaced):
        with torch.no_grad():
            data = pseudo_collate([dict(inputs=inputs, data_samples=_sample())])
            results.append(each.test_step(data)[0].seg_logits.data.numpy())
    assert verify.relative_error(*results) < 1e-5
    with pytest.raises(UserError, match='takes images of 24×32 and got 32×32'):
        replaced(torch.zeros(1, 3, 32, 32), mode='tensor')


def test_the_test_tool_measures_an_export(exported, models, run_tool, tmp_path):
    file = exported / 'segmentor_24x32_fp32.xml'
    done = run_tool('deployment/test.py', models / 'segmentor.py', file, '--work-dir', tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'mIoU' in done.stdout + done.stderr


def test_int8_is_calibrated_and_measured(models, monkeypatch, tmp_path, capsys):
    pytest.importorskip('nncf')
    options = [*arguments(models, 'segmentor', tmp_path), '--int8', models / 'data' / 'images']
    call_tool(monkeypatch, 'deployment/export.py', *options)
    assert 'same class at' in capsys.readouterr().out
    session = FORMATS['openvino'].load(tmp_path / 'segmentor_24x32_int8.xml', threads=1)
    assert session.metadata['dtype'] == 'int8'
    assert 'FakeQuantize' in (tmp_path / 'segmentor_24x32_int8.xml').read_text()


def test_an_export_that_differs_is_not_written(models, monkeypatch, tmp_path):
    monkeypatch.setitem(verify.TOLERANCES, 'fp32', verify.Tolerance(noise_error=0.0))
    with pytest.raises(UserError, match=r'not the same as the original: relative error \S+ on noise'):
        call_tool(monkeypatch, 'deployment/export.py', *arguments(models, 'classifier', tmp_path))
    assert not list(tmp_path.iterdir())


def test_random_weights_are_called_so(models, monkeypatch, tmp_path, capsys):
    command = arguments(models, 'classifier', tmp_path)
    command[1] = 'none'
    call_tool(monkeypatch, 'deployment/export.py', *command)
    assert 'random weights' in capsys.readouterr().out
    assert ExportedPredictor(tmp_path / 'classifier_24x32_fp32.xml').card.checkpoint is None


BAD_ARGUMENTS = {
    'ONNX in bf16': (['--format', 'onnx', '--dtype', 'bf16'], 'onnx does not run bf16.*use the format openvino'),
    'int8 without openvino': (['--format', 'onnx', '--int8', '{models}/data/images'], 'onnx does not run int8'),
    'a shape of three': (['--shape', '8', '8', '8'], 'one or two whole numbers'),
    'a shape of nothing': (['--shape', '0'], 'one or two whole numbers'),
    'parts of patches': (['--shape', '20', '32'], 'whole patches of 8 pixels, choose between 16 32 and 24 40'),
    'an empty folder of images': (['--int8', '{empty}'], 'holds no images'),
    'no folder of images': (['--images', '{empty}/none'], 'folder not found'),
    'an unwritable folder': (['--out', '{models}/segmentor.py/out'], 'cannot write to'),
}


@pytest.mark.parametrize(('options', 'problem'), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments_are_said_in_one_sentence(models, monkeypatch, tmp_path, options, problem):
    (tmp_path / 'empty').mkdir()
    options = [option.format(models=models, empty=tmp_path / 'empty') for option in options]
    with pytest.raises(UserError, match=problem) as raised:
        call_tool(monkeypatch, 'deployment/export.py', *arguments(models, 'segmentor', tmp_path / 'out'), *options)
    assert '\n' not in str(raised.value)
    assert not list(tmp_path.rglob('*.xml'))


def test_an_image_smaller_than_a_patch_is_refused(models, monkeypatch, tmp_path):
    with pytest.raises(UserError, match='4×4 pixels is smaller than a patch of 8×8'):
        call_tool(monkeypatch, 'deployment/export.py', *arguments(models, 'classifier', tmp_path, shape=(4, 4)))
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_model_is_refused(models, monkeypatch, tmp_path):
    command = arguments(models, 'segmentor', tmp_path)
    command[1] = models / 'classifier.pth'
    with pytest.raises(UserError, match='does not fit the model: missing: decode_head'):
        call_tool(monkeypatch, 'deployment/export.py', *command)


def test_an_unknown_format_or_dtype_is_refused(models, monkeypatch, tmp_path, capsys):
    for option in (['--format', 'tflite'], ['--dtype', 'fp4']):
        with pytest.raises(SystemExit):
            call_tool(monkeypatch, 'deployment/export.py', *arguments(models, 'segmentor', tmp_path), *option)
        assert 'invalid choice' in capsys.readouterr().err


@pytest.mark.parametrize('format_name', FORMATS)
def test_a_missing_package_is_named(export, monkeypatch, format_name):
    _, path = export('segmentor', format_name, OTHER)
    package = FORMATS[format_name].packages[-1]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs the package {package}.*pip install 'mmvittm\[deploy\]'"):
        FORMATS[format_name].load(path)


@pytest.mark.parametrize('format_name', FORMATS)
def test_what_is_no_exported_model_is_refused(tmp_path, format_name):
    path = tmp_path / f'model{FORMATS[format_name].suffix}'
    with pytest.raises(UserError, match='not found'):
        FORMATS[format_name].load(path)
    path.write_text('nonsense')
    with pytest.raises(UserError, match=f'not a model in the format {format_name}') as raised:
        FORMATS[format_name].load(path)
    assert '\n' not in str(raised.value)
