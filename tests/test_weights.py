"""Crafted and unfit weights: each ends in a sentence, is loaded completely, or says how much of it is."""

import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path

import mmpretrain
import mmseg
import pytest
import torch
from helpers.survival import config, fork, make_data, train, wait
from helpers.tiny import ARCH
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.utils import digit_version
from safetensors.torch import save_file
from torch import nn

from mmvittm.engine import CheckpointFitHook, PretrainedReportHook
from mmvittm.errors import UserError
from mmvittm.weights import load_checkpoint_file, load_weights, use_safe_loading
from mmvittm.weights.loading import weights_of

# Reading


def zipped(path, compression, **records):
    with zipfile.ZipFile(path, 'w', compression) as file:
        for name, content in records.items():
            file.writestr(f'archive/{name.replace("__", "/")}', content)


def flip_bit(path):
    torch.save(dict(weight=torch.zeros(1000)), path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


CRAFTED = dict(
    empty=b'',
    short=b'PK\3',
    text=b'weights',
    zip_magic=b'PK\3\4' + bytes(100),
    empty_stack=b'\x80\x02.',
    odd_items=b'\x80\x02}(K\x01u.',
    append_to_number=b'\x80\x02K\x01K\x02a.',
    long_string=b'\x80\x02X\xff\xff\xff\x7f',
    long_number=b'\x80\x02\x8b\xff\xff\xff\x7f',
    no_arguments=b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.',
    number_as_storage=b'\x80\x02K\x01Q.',
    unknown_memo=b'\x80\x02h\x09.',
    protocol_4=pickle.dumps(dict(weight=1), 4),
    class_of_os=b'\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.',
    unknown_class=b'\x80\x02cnowhere\nNothing\n)R.',
    flipped_bit=flip_bit,
    script=lambda path: torch.jit.save(torch.jit.trace(nn.Linear(1, 1), torch.zeros(1, 1)), path),
    bomb=lambda path: zipped(path, zipfile.ZIP_DEFLATED, version='3', data=bytes(30_000_000)),
    no_records=lambda path: zipped(path, zipfile.ZIP_STORED),
    bad_records=lambda path: zipped(path, zipfile.ZIP_STORED, **{'data.pkl': b'\x80\x02K\x01Q.', 'version': '3'}),
)


@pytest.mark.filterwarnings('ignore:`torch.jit')
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('content', CRAFTED.values(), ids=CRAFTED)
def test_crafted_file(tmp_path, content, suffix, recwarn):
    path = tmp_path / f'crafted{suffix}'
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    recwarn.clear()
    with pytest.raises(
        UserError, match=rf'^checkpoint {path} (cannot be read|is not a plain weights|holds a)'
    ) as raised:
        load_checkpoint_file(path)
    said = str(raised.value) + ''.join(str(warning.message) for warning in recwarn)
    assert 'weights_only' not in said and 'jit' not in said and '\n' not in said


def test_record_that_expands(tmp_path):
    CRAFTED['bomb'](tmp_path / 'bomb.pth')
    with pytest.raises(UserError, match=r'it would expand to 30,000,001 bytes, more than 20 times its size'):
        load_checkpoint_file(tmp_path / 'bomb.pth')


WEIGHT = torch.ones(2, 3)
NOT_WEIGHTS = dict(
    empty=({}, 'there are no weights'),
    number=(dict(weight=1), 'weight is of type int'),
    list_of_weights=(dict(state_dict=[WEIGHT]), 'state_dict is of type list'),
    log=(dict(epoch=3, weights=dict(weight=WEIGHT)), 'epoch is of type int'),
    sparse=(dict(weight=WEIGHT.to_sparse()), 'weight is a sparse or nested tensor|not a plain weights file'),
    meta=(dict(weight=WEIGHT.to('meta')), 'weight is a meta tensor|not a plain weights file'),
    quantised=(
        lambda: dict(weight=torch.quantize_per_tensor(WEIGHT, 0.1, 0, torch.qint8)),
        'weight is a quantised tensor|is not a plain weights file',
    ),
    expanded=(dict(weight=torch.ones(1).expand(2, 3)), r'weight is an expanded view of shape \(2, 3\)'),
    nan=(dict(weight=WEIGHT * float('nan')), 'NaN or infinite: weight'),
    infinite=(dict(weight=WEIGHT / 0), 'NaN or infinite: weight'),
    int8=(dict(weight=WEIGHT.to(torch.int8)), 'wrong type: weight int8 instead of float32'),
    bool=(dict(weight=WEIGHT > 0), 'wrong type: weight bool instead of float32'),
    complex=(dict(weight=WEIGHT + 0j), 'wrong type: weight complex64 instead of float32'),
    shape=(dict(weight=torch.ones(3, 3)), r'wrong shape: weight \(3, 3\) instead of \(2, 3\)'),
)
if digit_version(torch.__version__) >= digit_version('2.2'):  # torch 2.1 cannot save it
    float8 = dict(weight=WEIGHT.to(torch.float8_e4m3fn))
    NOT_WEIGHTS['float8'] = float8, 'weight float8_e4m3fn instead of|not a plain weights file'


@pytest.mark.filterwarnings('ignore:.*quantize')
@pytest.mark.parametrize('checkpoint, sentence', NOT_WEIGHTS.values(), ids=NOT_WEIGHTS)
def test_unusable_weights(tmp_path, checkpoint, sentence):
    torch.save(checkpoint() if callable(checkpoint) else checkpoint, tmp_path / 'a.pth')
    with pytest.raises(UserError, match=sentence):
        load_weights(nn.Linear(3, 2, bias=False), tmp_path / 'a.pth')


def two_sizes(registry, **options):
    return (registry.build(dict(type='VisionTransformer', img_size=size, **options)) for size in (32, 64))


def test_positions_of_another_grid_fit_a_model_that_resamples_them(tmp_path):
    small, large = two_sizes(mmpretrain.registry.MODELS, arch=ARCH, patch_size=16)
    torch.save(small.state_dict(), tmp_path / 'a.pth')
    load_weights(large, tmp_path / 'a.pth')


def test_positions_of_another_grid_do_not_fit_a_vit_of_mmseg(tmp_path):
    small, large = two_sizes(mmseg.registry.MODELS, embed_dims=16, num_layers=1, num_heads=2)
    torch.save(small.state_dict(), tmp_path / 'a.pth')
    with pytest.raises(UserError, match=r'wrong shape: pos_embed \(1, 5, 16\) instead of \(1, 17, 16\)'):
        load_weights(large, tmp_path / 'a.pth')


def test_checkpoint_that_holds_itself():
    checkpoint = {}
    checkpoint['state_dict'] = checkpoint
    with pytest.raises(UserError, match='state_dict is of type dict'):
        weights_of(checkpoint)


def test_infinite_mask_is_loaded(tmp_path):
    """Buffers such as attention masks may be infinite."""
    model = nn.Linear(3, 2)
    model.register_buffer('mask', torch.full((2,), -torch.inf))
    torch.save(model.state_dict(), tmp_path / 'a.pth')
    load_weights(model, tmp_path / 'a.pth')


@pytest.mark.parametrize('prefix', ['', 'module.', '_orig_mod.', 'module._orig_mod.', '_orig_mod.module.'])
@pytest.mark.parametrize('nest', [None, 'state_dict', 'model'])
@pytest.mark.parametrize('half', [False, True])
def test_wrapped_weights_are_loaded(tmp_path, prefix, nest, half):
    source, model = nn.Sequential(nn.Linear(3, 2)), nn.Sequential(nn.Linear(3, 2))
    source = source.bfloat16() if half else source
    weights = {prefix + key: value for key, value in source.state_dict().items()}
    torch.save({nest: weights} if nest else weights, tmp_path / 'a.pth')
    load_weights(model, tmp_path / 'a.pth')
    assert torch.equal(model[0].weight, source[0].weight.float())


def test_compiled_part_is_loaded():
    assert weights_of({'backbone._orig_mod.fc.weight': WEIGHT}).keys() == {'backbone.fc.weight'}


def test_versions_of_modules_are_kept(tmp_path):
    torch.save(nn.BatchNorm2d(2).state_dict(), tmp_path / 'a.pth')
    weights = weights_of(load_checkpoint_file(tmp_path / 'a.pth'))
    assert isinstance(weights, OrderedDict) and weights._metadata['']['version'] == 2


def test_downloads_of_one_name_are_kept_apart(tmp_path, monkeypatch):
    urls = []

    def write(url, path):
        urls.append(url)
        torch.save(dict(weight=torch.full((1,), float(len(url)))), path)

    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', write)
    use_safe_loading()
    for url in ('https://a.org/model.pth', 'https://other.org/model.pth') * 2:
        assert CheckpointLoader.load_checkpoint(url)['state_dict']['weight'] == len(url)
    assert len(urls) == 2, 'each is downloaded once'


def test_a_damaged_download_is_not_kept(tmp_path, monkeypatch):
    torch.save(dict(weight=torch.zeros(1)), tmp_path / 'intact.pth')
    data = (tmp_path / 'intact.pth').read_bytes()
    parts = [data[:-100], data]
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', lambda url, path: Path(path).write_bytes(parts.pop(0)))
    use_safe_loading()
    with pytest.raises(UserError, match='it is truncated or not a checkpoint'):
        CheckpointLoader.load_checkpoint('https://a.org/model.pth')
    assert CheckpointLoader.load_checkpoint('https://a.org/model.pth')['state_dict'].keys() == {'weight'}


class Attribute:
    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return getattr, (HistoryBuffer, self.name)


@pytest.mark.parametrize('name', ['register_statistics', '__subclasses__', '__init__'])
def test_a_log_names_statistics_only(tmp_path, name):
    torch.save(dict(state_dict={}, log=Attribute(name)), tmp_path / 'a.pth')
    with pytest.raises(UserError, match='is not a plain weights file'):
        load_checkpoint_file(tmp_path / 'a.pth')


# Training from weights


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('weights')
    make_data(folder / 'data')
    return folder


def start(data, work_dir, resume=False, **options):
    """Train one iteration as tools/train.py does; return the exit status and the output."""
    workers = dict(train_dataloader__num_workers=0, train_dataloader__persistent_workers=False)
    cfg = config('segmentation', data / 'data', work_dir, 1, train_cfg__val_begin=9, **workers, **options)

    def prepare(runner):
        runner.register_hook(PretrainedReportHook())
        runner.register_hook(CheckpointFitHook(strict=resume))

    log = work_dir.with_suffix('.log')
    return wait(fork(lambda: train(cfg, resume, prepare), log)), log.read_text()


@pytest.fixture(scope='module')
def weights(data):
    status, log = start(data, data / 'run')
    assert status == 0, log
    return load_checkpoint_file(data / 'run' / 'iter_1.pth')['state_dict']


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_bare_weights_under_an_ema_hook(data, weights, tmp_path, suffix):
    path = tmp_path / f'bare{suffix}'
    (save_file if suffix == '.safetensors' else torch.save)(dict(weights), path)
    status, log = start(data, tmp_path / 'run', load_from=str(path), optim_wrapper__optimizer__lr=0.0)
    assert status == 0, log
    assert 'fits only part' not in log
    saved = load_checkpoint_file(tmp_path / 'run/iter_1.pth')
    for part, prefix in (('state_dict', ''), ('ema_state_dict', 'module.')):
        for key, value in weights.items():
            if 'running' not in key and 'num_batches' not in key:
                assert torch.equal(saved[part][prefix + key], value), (part, key)


NOT_LOADED = dict(
    nothing_fits=(lambda w: {f'other.{key}': value for key, value in w.items()}, r'none of \d+ weights can be loaded'),
    nan=(lambda w: w | {'decode_head.conv_seg.bias': torch.full((2,), torch.nan)}, 'NaN or infinite: decode_head'),
    int8=(lambda w: {key: value.to(torch.int8) for key, value in w.items()}, 'wrong type'),
)


@pytest.mark.parametrize('change, sentence', NOT_LOADED.values(), ids=NOT_LOADED)
def test_weights_that_train_nothing(data, weights, tmp_path, change, sentence):
    torch.save(change(dict(weights)), tmp_path / 'a.pth')
    status, log = start(data, tmp_path / 'run', load_from=str(tmp_path / 'a.pth'))
    assert status == 1 and re.search(sentence, log.splitlines()[-1]), log


def test_part_of_the_weights(data, weights, tmp_path):
    part = {key: value for key, value in weights.items() if key.startswith('backbone.')}
    torch.save(part, tmp_path / 'a.pth')
    status, log = start(data, tmp_path / 'run', load_from=str(tmp_path / 'a.pth'))
    assert status == 0, log
    loaded = f'{len(part)} of {len(weights)} weights are loaded; not loaded, missing: decode_head'
    assert f'the checkpoint fits only part of the model: {loaded}' in log


@pytest.mark.parametrize(
    'init_cfg, sentence',
    [
        (dict(), r'init_cfg of backbone.*none of \d+ weights can be loaded.*its keys begin with backbone, decode_head'),
        (dict(prefix='head.'), r"no key of the checkpoint begins with 'head\.': its keys begin with backbone"),
    ],
    ids=['no prefix', 'wrong prefix'],
)
def test_init_cfg_that_loads_nothing(data, weights, tmp_path, init_cfg, sentence):
    init_cfg = dict(type='Pretrained', checkpoint=str(data / 'run' / 'iter_1.pth'), **init_cfg)
    status, log = start(data, tmp_path / 'run', model__backbone__init_cfg=init_cfg)
    assert status == 1 and re.search(sentence, log.splitlines()[-1]), log


NOT_RESUMED = dict(
    weights_alone=(lambda c: c['state_dict'], 'it has no meta, message_hub, optimizer: pass one that a training saved'),
    no_optimizer=(lambda c: {k: v for k, v in c.items() if k != 'optimizer'}, 'it has no optimizer'),
    no_schedulers=(lambda c: {k: v for k, v in c.items() if k != 'param_schedulers'}, 'no state of the schedulers'),
    crafted_log=(lambda c: c | dict(message_hub=dict(log_scalars=5)), 'it has no message_hub'),
    crafted_optimizer=(lambda c: c | dict(optimizer=dict(param_groups=3)), 'does not fit this config: '),
    crafted_ema=(lambda c: c | dict(ema_state_dict=3), 'does not fit this config: '),
    crafted_meta=(lambda c: c | dict(meta=[1]), 'it has no meta'),
)


@pytest.mark.parametrize('change, sentence', NOT_RESUMED.values(), ids=NOT_RESUMED)
def test_resume_of_part_of_a_training(data, weights, tmp_path, change, sentence):
    checkpoint = torch.load(data / 'run' / 'iter_1.pth', weights_only=False)
    torch.save(change(checkpoint), tmp_path / 'a.pth')
    status, log = start(data, tmp_path / 'run', resume=True, load_from=str(tmp_path / 'a.pth'))
    assert status == 1 and re.search(sentence, log.splitlines()[-1]), log


def test_resume_without_the_ema_hook(data, weights, tmp_path):
    """The training would go on from the average."""
    cfg = config('segmentation', data / 'data', tmp_path / 'run', 2, load_from=str(data / 'run' / 'iter_1.pth'))
    cfg.custom_hooks = []
    log, hook = tmp_path / 'log', CheckpointFitHook(strict=True)
    status = wait(fork(lambda: train(cfg, True, lambda runner: runner.register_hook(hook)), log))
    assert status == 1 and 'has averaged weights, and this config no EMAHook' in log.read_text().splitlines()[-1]
