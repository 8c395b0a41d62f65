"""Exported models compute the numbers of the models they were made from, or are not written."""

import json
import re
import runpy
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from helpers.deployment import METADATA_0_1_0, make_models, needs_torch_export, photograph, write_onnx
from helpers.survival import free_port, rank_environment
from helpers.tiny import images, one_thread, randomize, tiny_vittm
from helpers.tools import call_tool, load_tool
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmpretrain.models import ClsDataPreprocessor, ClsHead, VisionTransformer
from mmseg.models import SegDataPreProcessor
from mmseg.structures import SegDataSample
from torch import nn

from mmvittm.apis.config import load_config
from mmvittm.apis.inference import class_names, eager_predictor, load_model, read_image
from mmvittm.apis.tasks import inference_network
from mmvittm.deploy import FORMATS, verify
from mmvittm.deploy.base import Session
from mmvittm.deploy.images import FITS, prepare
from mmvittm.deploy.metadata import ExportMetadata, normalisation
from mmvittm.deploy.predict import exported_predictor, load_exported, run_exported
from mmvittm.deploy.program import export_program
from mmvittm.errors import UserError

for package in ('onnx', 'onnxscript', 'onnxruntime', 'openvino'):
    pytest.importorskip(package)
pytestmark = needs_torch_export
__all__ = ['one_thread']

NATIVE, OTHER, TOOL = (16, 16), (24, 40), (24, 32)
METADATA = dict(classes=['sea "blue"', '<ice & snow>', 'Ödland'], palette=[[0, 1, 2]], nothing=None)


class Backbone(nn.Module):
    """A network without output names."""

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
        network = Backbone(randomize(VisionTransformer(arch, img_size=16, patch_size=8, out_type='featmap')))
    else:
        options = dict(num_layers=1, out_stream='concat', alibi_slopes=(1.0, 0.5))
        network = Backbone(tiny_vittm('CrossAttention', embeds='pooled_process', **options))
    network.eval()
    return network


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp('models'))


@pytest.fixture(scope='module')
def exported(models, tmp_path_factory):
    """Return the folder with the files that the tool makes of both models."""
    out = tmp_path_factory.mktemp('out')
    with pytest.MonkeyPatch.context() as patch:
        for name, format_name in (('segmentor', 'openvino'), ('classifier', 'onnx')):
            call_tool(patch, 'deployment/export.py', *arguments(models, name, out, format_name))
    return out


def arguments(models, name, out, format_name='openvino', shape=TOOL):
    config, checkpoint = models / f'{name}.py', models / f'{name}.pth'
    return [config, checkpoint, '--format', format_name, '--shape', *shape, '--out', out]


@pytest.fixture(scope='module')
def segmentor_file(exported):
    return exported / 'segmentor_24x32_fp32.xml'


@pytest.fixture(scope='module')
def onnx_segmentor(models, tmp_path_factory):
    path = tmp_path_factory.mktemp('onnx') / 'segmentor.onnx'
    FORMATS['onnx'].export(tiny_network('segmentor', models), images(1, *OTHER), path, metadata=METADATA)
    return path


def assert_same_numbers(network, session, size):
    for batch in (1, 3):
        x = images(batch, *size, seed=batch)
        with torch.no_grad():
            expected = verify.outputs_of(network, x)
        got = session(x.numpy())
        assert [output.shape for output in got] == [output.shape for output in expected]
        assert max(map(verify.relative_error, got, expected)) < 1e-5


@pytest.mark.parametrize(
    ('name', 'format_name', 'size'),
    [
        ('cross attention, pooled, fading', 'onnx', NATIVE),
        ('cross attention, pooled, fading', 'openvino', OTHER),
        ('ViT', 'openvino', OTHER),
    ],
)
def test_backbones_export_for_any_batch_size(models, tmp_path, format_name, name, size):
    network, format = tiny_network(name, models), FORMATS[format_name]
    path = tmp_path / f'backbone{format.suffix}'
    format.export(network, images(1, *size), path)
    assert_same_numbers(network, format.load(path, threads=1), size)


def test_onnx_segmentor_runs_any_batch_size(models, onnx_segmentor):
    session = FORMATS['onnx'].load(onnx_segmentor, threads=1)
    assert_same_numbers(tiny_network('segmentor', models), session, OTHER)
    assert session.metadata == METADATA | dict(dtype='fp32')


@pytest.mark.parametrize('file', ['segmentor_24x32_fp32.xml', 'classifier_24x32_fp32.onnx'])
def test_exports_of_the_tool_run_any_batch_size(models, exported, file):
    session, _ = load_exported(exported / file)
    assert_same_numbers(tiny_network(file.partition('_')[0], models), session, TOOL)


def test_bf16_is_close(models, segmentor_file):
    x = images(2, *TOOL)
    with torch.no_grad():
        expected = verify.outputs_of(tiny_network('segmentor', models), x)[0]
    got = FORMATS['openvino'].load(segmentor_file, dtype='bf16', threads=1)(x.numpy())[0]
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


def test_onnx_inputs_and_outputs_have_names(exported):
    onnx = pytest.importorskip('onnx')
    graph = onnx.load(exported / 'classifier_24x32_fp32.onnx').graph
    sizes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert sizes == dict(images=['batch', 3, *TOOL], logits=['batch', 6])


def test_openvino_inputs_and_outputs_have_names(segmentor_file):
    model = pytest.importorskip('openvino').Core().read_model(segmentor_file)
    sizes = {value.get_any_name(): str(value.partial_shape) for value in (*model.inputs, *model.outputs)}
    assert sizes == dict(images='[?,3,24,32]', logits='[?,3,6,8]')


@pytest.mark.parametrize('fit', FITS)
@pytest.mark.parametrize('size', [(24, 40), (7, 900), (900, 7), (1, 1), (333, 500)])
def test_images_of_any_size_fit(fit, size):
    fitted = FITS[fit](photograph(*size), OTHER)
    assert all(have <= want for have, want in zip(fitted.shape, OTHER, strict=False))
    if fit == 'centre':
        assert fitted.shape[:2] == OTHER
    else:
        assert fitted.shape[0] == OTHER[0] or fitted.shape[1] == OTHER[1]


def test_the_centre_is_the_middle():
    image = photograph(24, 60)
    np.testing.assert_array_equal(FITS['centre'](image, OTHER), image[:, 10:50])


def test_the_tool_writes_nothing_but_the_export(exported):
    names = sorted(path.name for path in exported.iterdir())
    assert names == ['classifier_24x32_fp32.onnx', 'segmentor_24x32_fp32.bin', 'segmentor_24x32_fp32.xml']


def test_an_export_says_how_to_use_it(segmentor_file):
    session, metadata = load_exported(segmentor_file)
    assert session.metadata['dtype'] == 'fp32'
    assert metadata.classes == ('sea', 'land', 'ice')
    assert metadata.palette[1] == (0, 128, 0)
    assert (metadata.task, metadata.shape, metadata.channel_order) == ('segmentation', TOOL, 'rgb')
    assert metadata.mean == pytest.approx((120, 115, 100))
    assert (metadata.config, metadata.checkpoint) == ('segmentor', 'segmentor.pth')


@pytest.mark.parametrize('size', [TOOL, (24, 20), (12, 32)], ids=str)
@pytest.mark.parametrize('aligned', [False, True])
def test_an_export_of_0_1_0_loads_and_predicts(tmp_path, aligned, size):
    weight = write_onnx(tmp_path / 'old.onnx', json.dumps(json.loads(METADATA_0_1_0) | dict(align_corners=aligned)))
    image = photograph(*size, seed=3)
    inputs = (image[..., ::-1].astype(np.float32) - [120, 115, 100]) / [58, 57, 56]
    inputs = torch.from_numpy(inputs.transpose(2, 0, 1).astype(np.float32))
    inputs = F.pad(inputs, (0, TOOL[1] - size[1], 0, TOOL[0] - size[0]))
    logits = F.conv2d(inputs[None], torch.from_numpy(weight), stride=4)
    expected, other = (
        F.interpolate(logits, TOOL, mode='bilinear', align_corners=corners).argmax(1)[0, : size[0], : size[1]].numpy()
        for corners in (aligned, not aligned)
    )
    assert len(np.unique(expected)) == 3
    assert (expected != other).any()

    predictor = exported_predictor(tmp_path / 'old.onnx')
    np.testing.assert_array_equal(predictor.predict(image), expected)
    assert tuple(predictor.classes) == ('sea', 'land', 'ice')
    assert load_exported(tmp_path / 'old.onnx')[1].version == '0.1.0'


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        (dict(task='detection'), "task must be one of segmentation, classification, not 'detection'"),
        (dict(task=['segmentation']), 'task must be one of'),
        (dict(shape=[24]), 'shape must be two whole numbers above 0'),
        (dict(shape=[24, 0]), 'shape must be two whole numbers above 0'),
        (dict(shape=24), 'shape must be two whole numbers above 0'),
        (dict(fit='stretch'), "fit must be a way to fit an image, not 'stretch'"),
        (dict(channel_order='gbr'), "channel_order must be rgb or bgr, not 'gbr'"),
        (dict(mean=[1, 2]), 'mean must be three numbers'),
        (dict(mean=[1, 2, 'a']), 'mean must be three numbers'),
        (dict(std=[1, 0, 1]), 'std must be three numbers above 0'),
        (dict(std=[1, float('nan'), 1]), 'std must be three numbers above 0'),
        (dict(pad_value=None), 'pad_value must be a number'),
        (dict(align_corners='no'), 'align_corners must be true or false'),
        (dict(classes=[]), 'classes must be a list of names'),
        (dict(classes=['sea']), '1 classes and 3 colours'),
        (dict(palette=[[0, 0, 256]] * 3), 'palette must be a list of RGB colours'),
        (dict(classes=['sea', 'land'], palette=[[0, 0, 0]] * 2), '3 logits for 2 classes'),
        (dict(shape=[16, 16]), r'does not run on its own shape \(16, 16\)'),
    ],
    ids=str,
)
def test_metadata_that_makes_no_sense(tmp_path, change, sentence):
    write_onnx(tmp_path / 'a.onnx', json.dumps(json.loads(METADATA_0_1_0) | change))
    with pytest.raises(UserError, match=sentence):
        exported_predictor(tmp_path / 'a.onnx').predict(photograph(20, 30))


def test_metrics_of_single_streams_are_left_out():
    tool, accuracy = load_tool('deployment/test.py'), dict(type='Accuracy')
    assert tool._without_streams([accuracy, dict(type='mmvittm.StreamAccuracy', stream='memory')]) == [accuracy]
    assert tool._without_streams(accuracy) == accuracy


@pytest.mark.parametrize(('metadata', 'sentence'), [(None, ' on task, shape, .*'), ('[1]', '')])
def test_a_file_of_another_origin_is_refused(tmp_path, metadata, sentence):
    write_onnx(tmp_path / 'other.onnx', metadata=metadata)
    with pytest.raises(UserError, match=f'has no metadata{sentence}: export the model with'):
        load_exported(tmp_path / 'other.onnx')


def test_an_image_is_prepared_as_by_the_model(segmentor_file, models):
    model, _ = load_model(load_config(models / 'segmentor.py'), None)
    image = photograph(*TOOL)
    inputs = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    expected = model.data_preprocessor(dict(inputs=[inputs], data_samples=[_sample()]))['inputs'][0].numpy()
    got, content = prepare(image, load_exported(segmentor_file)[1])
    assert content == TOOL
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(('swaps', 'order'), [(True, 'rgb'), (False, 'bgr')])
@pytest.mark.parametrize(('kind', 'name'), [(SegDataPreProcessor, 'bgr_to_rgb'), (ClsDataPreprocessor, 'to_rgb')])
def test_channel_order(kind, name, swaps, order):
    preprocessor = kind(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], **{name: swaps})
    assert normalisation(preprocessor) == dict(channel_order=order, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    assert normalisation(kind(**{name: swaps})) == dict(channel_order=order, mean=(0.0,) * 3, std=(1.0,) * 3)


def test_padding_is_in_normalised_units():
    metadata = _metadata(fit='inside', pad_value=-2.0)
    inputs, content = prepare(photograph(24, 20), metadata)
    assert content == (24, 20)
    assert (inputs[:, :, 20:] == -2).all()
    assert inputs[:, :, :20].min() > -2


def _metadata(**values):
    return ExportMetadata(
        **dict(
            task='classification',
            shape=TOOL,
            fit='centre',
            channel_order='bgr',
            mean=(127.5,) * 3,
            std=(127.5,) * 3,
            pad_value=0.0,
            align_corners=False,
            classes=('a', 'b'),
            palette=((0, 0, 0),) * 2,
            config='config',
            checkpoint='checkpoint.pth',
        )
        | values
    )


def _sample():
    return SegDataSample(metainfo=dict(img_shape=TOOL, ori_shape=TOOL))


@pytest.mark.parametrize(
    ('name', 'file'), [('segmentor', 'segmentor_24x32_fp32.xml'), ('classifier', 'classifier_24x32_fp32.onnx')]
)
def test_an_export_predicts_what_the_model_does(exported, models, name, file):
    predictor = exported_predictor(exported / file)
    eager = eager_predictor(models / f'{name}.py', models / f'{name}.pth')
    assert tuple(eager.classes) == tuple(predictor.classes)
    image = read_image(models / 'data' / 'images' / '0.png')
    got, expected = predictor.predict(image), eager.predict(image)
    assert got.shape == expected.shape
    if name == 'segmentor':
        assert (got == expected).mean() > 0.98
        assert len(np.unique(expected)) > 1
    else:  # the eager pipeline crops to another size
        model, _ = load_model(load_config(models / 'classifier.py'), models / 'classifier.pth')
        image = photograph(*TOOL)
        inputs = (torch.from_numpy(image.transpose(2, 0, 1).copy()).float() - 127.5) / 127.5
        with torch.no_grad():
            expected = model(inputs[None], mode='tensor').softmax(1)[0].numpy()
        np.testing.assert_allclose(predictor.predict(image), expected, atol=1e-5)


def test_an_export_replaces_the_network_of_a_model(segmentor_file, models):
    cfg = load_config(models / 'segmentor.py')
    model, _ = load_model(cfg, models / 'segmentor.pth')
    replaced, _ = load_model(cfg, None)
    run_exported(replaced, *load_exported(segmentor_file))
    inputs = torch.from_numpy(photograph(*TOOL).transpose(2, 0, 1).copy())
    results = []
    for each in (model, replaced):
        with torch.no_grad():
            data = pseudo_collate([dict(inputs=inputs, data_samples=_sample())])
            results.append(each.test_step(data)[0].seg_logits.data.numpy())
    assert verify.relative_error(*results) < 1e-5
    with pytest.raises(UserError, match='takes images of 24×32, not 32×32'):
        replaced(torch.zeros(1, 3, 32, 32), mode='tensor')


def test_an_exported_classifier_replaces_the_network(exported, models):
    cfg = load_config(models / 'classifier.py')
    model, _ = load_model(cfg, models / 'classifier.pth')
    replaced, _ = load_model(cfg, None)
    run_exported(replaced, *load_exported(exported / 'classifier_24x32_fp32.onnx'))
    with torch.no_grad():
        expected, got = (each(images(2, *TOOL), mode='predict') for each in (model, replaced))
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours.pred_score, theirs.pred_score, atol=1e-6)


def test_an_export_of_another_model_is_refused(segmentor_file, models):
    model, _ = load_model(load_config(models / 'classifier.py'), None)
    sentence = r'the exported model is for segmentation of \d classes, the config for classification of \d classes'
    with pytest.raises(UserError, match=sentence):
        run_exported(model, *load_exported(segmentor_file))


def test_an_export_of_other_classes_is_refused(models, tmp_path):
    write_onnx(tmp_path / 'a.onnx')
    model, _ = load_model(load_config(models / 'segmentor.py'), None)
    model.decode_head.num_classes = 4
    with pytest.raises(UserError, match='segmentation of 3 classes, the config for segmentation of 4 classes'):
        run_exported(model, *load_exported(tmp_path / 'a.onnx'))


def test_an_export_for_bf16_computes_in_it(tmp_path, recwarn):
    path, x = tmp_path / 'a.xml', images(1, *TOOL)
    FORMATS['openvino'].export(nn.Conv2d(3, 2, 4).eval(), x, path, 'bf16')
    got, exact = (FORMATS['openvino'].load(path, dtype, threads=1)(x.numpy())[0] for dtype in (None, 'fp32'))
    is_told = any('this CPU has no bf16' in str(warning.message) for warning in recwarn)
    assert is_told or not np.array_equal(got, exact)


def test_an_export_is_not_quantised_by_loading_it(segmentor_file):
    with pytest.raises(UserError, match='was exported for fp32 and cannot compute in int8: export it again'):
        load_exported(segmentor_file, 'int8')


def test_the_test_tool_measures_an_export(segmentor_file, models, run_tool, tmp_path, monkeypatch):
    """With the metrics of the model that it was made of, and in a process that a launcher started."""
    config, variables = models / 'segmentor.py', rank_environment(0, free_port()) | dict(WORLD_SIZE='1')
    done = [run_tool('test.py', config, models / 'segmentor.pth', '--work-dir', tmp_path)]
    done.append(run_tool('deployment/test.py', config, segmentor_file, '--work-dir', tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    launched = '--launcher', 'pytorch', '--work-dir', tmp_path
    done.append(run_tool('deployment/test.py', config, segmentor_file, *launched))
    assert [each.returncode for each in done] == [0, 0, 0], [each.stderr for each in done]
    found = [re.findall(r'mIoU +([\d.]+)', each.stdout)[-1] for each in done]
    assert [float(number) for number in found] == pytest.approx([float(found[0])] * 3, abs=0.5)


def test_int8_is_calibrated_and_measured(models, monkeypatch, tmp_path, capsys):
    pytest.importorskip('nncf')
    options = [*arguments(models, 'segmentor', tmp_path), '--int8', models / 'data' / 'images']
    call_tool(monkeypatch, 'deployment/export.py', *options)
    assert re.search(r'relative error \S+ on noise and \S+ on images, same class at', capsys.readouterr().out)
    session, _ = load_exported(tmp_path / 'segmentor_24x32_int8.xml')
    assert session.metadata['dtype'] == 'int8'
    assert 'FakeQuantize' in (tmp_path / 'segmentor_24x32_int8.xml').read_text()
    with pytest.raises(UserError, match='was exported for int8 and cannot compute in fp32: export it again'):
        load_exported(tmp_path / 'segmentor_24x32_int8.xml', 'fp32')


def verify_changed(change, dtype, checkpoint='checkpoint.pth'):
    """Verify an "export" whose outputs are those of the network, changed."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 32, 2))
    session = Session(lambda x: [change(network(torch.from_numpy(x)).detach().numpy())], {})
    return verify.verify(network, session, _metadata(checkpoint=checkpoint), images(4, *TOOL).numpy(), dtype)


VERIFICATIONS = {
    'fp32 off on noise': ('fp32', lambda y: y * 1.001, 'at most 0.0001 is allowed'),
    'bf16 off on images': ('bf16', lambda y: y * 1.1, 'at most 0.02 is allowed'),
    'bf16 off on one image': ('bf16', lambda y: y * (1 + 0.1 * (len(y) == 1)), 'at most 0.02 is allowed'),
    'bf16 off on several': ('bf16', lambda y: y * (1 + 0.1 * (len(y) == 3)), 'at most 0.02 is allowed'),
    'int8 of another shape': ('int8', lambda y: y[:, :1], 'all outputs must be finite'),
    'int8 not finite': ('int8', lambda y: y * np.nan, 'all outputs must be finite'),
}


@pytest.mark.parametrize(('dtype', 'change', 'problem'), VERIFICATIONS.values(), ids=VERIFICATIONS)
def test_an_export_that_differs_is_refused(dtype, change, problem):
    with pytest.raises(UserError, match=rf'differs from the original: relative error \S+ on noise.*{problem}'):
        verify_changed(change, dtype)


def test_other_classes_are_refused_unless_random(monkeypatch):
    monkeypatch.setitem(verify.TOLERANCES, 'bf16', dict(agreement=verify.TOLERANCES['bf16']['agreement']))
    with pytest.raises(UserError, match=r'at least 99.5% must be the same'):
        verify_changed(lambda y: np.roll(y, 1, axis=1), 'bf16')
    assert verify_changed(lambda y: np.roll(y, 1, axis=1), 'bf16', checkpoint=None).agreement == 0
    several = verify_changed(lambda y: np.roll(y, len(y) == 3, axis=1), 'bf16', checkpoint=None)
    assert several.agreement == 0.25, 'three of four images differ'


def test_a_refused_export_leaves_nothing_behind(models, monkeypatch, tmp_path):
    monkeypatch.setattr(FORMATS['onnx'], '_write', lambda program, names, path, *rest: path.write_text('nonsense'))
    with pytest.raises(UserError, match='not a model in the format onnx'):
        call_tool(monkeypatch, 'deployment/export.py', *arguments(models, 'classifier', tmp_path, 'onnx'))
    assert not list(tmp_path.iterdir())


def test_random_weights_are_reported(models, monkeypatch, tmp_path, capsys):
    command = arguments(models, 'classifier', tmp_path)
    command[1] = 'none'
    call_tool(monkeypatch, 'deployment/export.py', *command)
    assert 'random weights' in capsys.readouterr().out
    assert load_exported(tmp_path / 'classifier_24x32_fp32.xml')[1].checkpoint is None


BAD_ARGUMENTS = {
    'ONNX in bf16': (['--format', 'onnx', '--dtype', 'bf16'], 'onnx does not run bf16.*use the format openvino'),
    'int8 without openvino': (['--format', 'onnx', '--int8', '{models}/data/images'], 'onnx does not run int8'),
    'a shape of three': (['--shape', '8', '8', '8'], 'one or two whole numbers'),
    'a shape of nothing': (['--shape', '0'], 'one or two whole numbers'),
    'no multiple of the patch': (['--shape', '20', '32'], 'multiple of the patch size 8: choose 16 32 or 24 40'),
    'an empty folder of images': (['--int8', '{empty}'], 'holds no images'),
    'no folder of images': (['--images', '{empty}/none'], 'folder not found'),
    'an unwritable folder': (['--out', '{models}/segmentor.py/out'], 'cannot write to'),
    'a shape below a patch': (['--shape', '4', '4'], 'multiple of the patch size 8: choose 8 8 or 8 8'),
}


@pytest.mark.parametrize(('options', 'problem'), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments_are_refused(models, monkeypatch, tmp_path, options, problem):
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


@pytest.mark.parametrize(('dtype', 'calibration'), [('int8', None), ('fp32', [])])
def test_int8_alone_is_calibrated(tmp_path, dtype, calibration):
    with pytest.raises(UserError, match='int8, and no other dtype, needs images to calibrate on'):
        FORMATS['openvino'].export(nn.Flatten(), images(), tmp_path / 'a.xml', dtype, calibration=calibration)


@pytest.mark.parametrize('option', [['--format', 'tflite'], ['--dtype', 'fp4']], ids=' '.join)
def test_unknown_choices_are_refused(models, monkeypatch, tmp_path, capsys, option):
    with pytest.raises(SystemExit):
        call_tool(monkeypatch, 'deployment/export.py', *arguments(models, 'segmentor', tmp_path), *option)
    assert 'invalid choice' in capsys.readouterr().err


DATA = dict(dataset=dict(type='mmseg.BaseSegDataset', metainfo=dict(classes=['x', 'y'], palette=[[1] * 3, [2] * 3])))

STREETS = dict(dataset=dict(type='CityscapesDataset', metainfo=dict(classes=('car', 'road')), data_root='nowhere'))


@pytest.mark.parametrize(
    ('cfg', 'dataset_meta', 'classes', 'colour'),
    [
        (dict(test_dataloader=DATA), dict(CLASSES=['a', 'b'], PALETTE=[[3, 3, 3]] * 2), ('a', 'b'), (3, 3, 3)),
        (dict(test_dataloader=DATA), {}, ('x', 'y'), (1, 1, 1)),
        (dict(val_dataloader=DATA), {}, ('x', 'y'), (1, 1, 1)),
        (dict(default_scope='mmseg', test_dataloader=STREETS), {}, ('car', 'road'), (0, 0, 142)),
        ({}, {}, ('0', '1'), (31, 119, 180)),
        ({}, dict(CLASSES=['a', 'b'], PALETTE=[[3, 3, 3]]), ('a', 'b'), (31, 119, 180)),
    ],
    ids=['checkpoint', 'data', 'validation data', 'classes of the data', 'neither', 'palette too short'],
)
def test_class_names_come_from(cfg, dataset_meta, classes, colour):
    names = class_names(Config(cfg), SimpleNamespace(num_classes=2), dataset_meta)
    assert names['classes'] == classes
    assert names['palette'][0] == colour
    if cfg or dataset_meta:
        assert class_names(Config(cfg), ClsHead(), dataset_meta) == names  # knows no number of classes


def test_colours_repeat_after_twenty_classes():
    palette = class_names(Config({}), SimpleNamespace(num_classes=21), {})['palette']
    assert palette[20] == palette[0] != palette[19]


def test_wrong_class_counts_are_refused():
    with pytest.raises(UserError, match='the model has 3 classes and the data 2'):
        class_names(Config(dict(test_dataloader=DATA)), SimpleNamespace(num_classes=3), {})
    with pytest.raises(UserError, match='neither the ClsHead nor the data of the config say how many'):
        class_names(Config(), ClsHead(), {})


def test_one_logit_for_two_classes_is_not_exported():
    make_metadata = runpy.run_path(str(ROOT / 'tools/deployment/export.py'))['make_metadata']
    task = SimpleNamespace(head=lambda model: SimpleNamespace(num_classes=2, out_channels=1))
    with pytest.raises(UserError, match=r'one logit for two classes .* set out_channels=2'):
        make_metadata(None, None, None, task, {})


@pytest.mark.parametrize('format_name', FORMATS)
def test_a_missing_package_is_named(monkeypatch, tmp_path, format_name):
    package = FORMATS[format_name].packages[-1]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf'needs the package {package}.*pip install .*\[deploy\]'):
        FORMATS[format_name].load(tmp_path / 'model')


@pytest.mark.parametrize('format_name', FORMATS)
def test_other_files_are_refused(tmp_path, format_name):
    path = tmp_path / f'model{FORMATS[format_name].suffix}'
    with pytest.raises(UserError, match='not found'):
        FORMATS[format_name].load(path)
    path.write_text('nonsense')
    with pytest.raises(UserError, match=f'not a model in the format {format_name}') as raised:
        FORMATS[format_name].load(path)
    assert '\n' not in str(raised.value)
