"""Read configs, build models from them and write files: values first, then users' mistakes."""

import argparse
import re

import pytest
from fuzz import Case, base_config, changed, judge, train_with, write_data
from mmengine.config import Config
from mmengine.registry import DATASETS, HOOKS, METRICS, DefaultScope

from mmvittm.apis.cli import add_common_arguments
from mmvittm.apis.config import build_model, input_size, load_config
from mmvittm.apis.config_errors import FirstStepHook, check_metric_arguments, check_optimizer, explain_config_errors
from mmvittm.apis.runner import config_from_args
from mmvittm.errors import UserError
from mmvittm.fileio import atomic_path

BACKBONE = dict(
    type='mmpretrain.VisionTransformer',
    arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32),
    img_size=32,
    patch_size=16,
    out_type='featmap',
)
HEAD = dict(type='FCNHead', in_channels=16, channels=8, num_classes=3, num_convs=1)
SEGMENTOR = dict(type='EncoderDecoder', backbone=BACKBONE, decode_head=HEAD)


def config(model=None, **others) -> Config:
    return Config(dict(default_scope='mmseg', model=model, **others), cfg_text='# in memory', filename='tiny.py')


def test_load_config_follows_bases_and_overrides(tmp_path):
    (tmp_path / 'base.py').write_text('model = dict(depth=1, width=8)')
    (tmp_path / 'child.py').write_text("_base_ = './base.py'\nmodel = dict(depth=2)")
    cfg = load_config(tmp_path / 'child.py', {'model.width': 16, 'train_cfg.name': 'x'})
    assert cfg.model == dict(depth=2, width=16)
    assert cfg.train_cfg.name == 'x'


@pytest.mark.parametrize(
    ('text', 'sentence'),
    [
        (None, 'config not found: .*bad.py$'),
        ('a = 1\nx = = 2', 'bad.py cannot be read: syntax error at `x = = 2`, line 2 of it or of a _base_ file'),
        ("_base_ = './nowhere.py'", 'bad.py cannot be read: .*nowhere.py'),
        (
            "_base_ = './broken.py'",
            r'bad.py cannot be read: syntax error at `x = \(`, line 1 of it or of a _base_ file',
        ),
        ("_base_ = './undefined.py'", r"NameError: name 'y' is not defined \(.*undefined.py, line 2\)$"),
        ("_base_ = 'mmseg::fcn.py'", 'bad.py cannot be read: .*use a relative path$'),
        ("_base_ = 'mmdet::_base_/x.py'", r"mmdet is not installed.*; if it is OneDL's, .* use `_base_ = "),
        ('import no_such_package', 'bad.py cannot be read: .*no_such_package'),
        (
            'try:\n    import no_such_package\nexcept ImportError:\n    raise ImportError("install it")',
            r'bad.py cannot be read: ImportError: install it \(',
        ),
        (
            "custom_imports = dict(imports=['no_such_package'])",
            "bad.py cannot be read: ModuleNotFoundError: No module named 'no_such_package'$",
        ),
        (
            "custom_imports = dict(imports=['needs_more'])",
            r"bad.py cannot be read: ModuleNotFoundError: .* 'no_such_package' \(.*needs_more.py, line 1\)",
        ),
    ],
)
def test_unreadable_config(tmp_path, text, sentence):
    (tmp_path / 'broken.py').write_text('x = (')
    (tmp_path / 'needs_more.py').write_text('import no_such_package')
    (tmp_path / 'undefined.py').write_text('x = 1\nx = y')
    if text is not None:
        (tmp_path / 'bad.py').write_text(text)
    with pytest.raises(UserError, match=sentence) as error:
        load_config(tmp_path / 'bad.py')
    assert '\n' not in str(error.value)


def test_override_that_does_not_fit(tmp_path):
    (tmp_path / 'a.py').write_text('depths = [1, 2]')
    with pytest.raises(UserError, match=r"overrides \{'depths.5': 3\} do not fit config .*a.py"):
        load_config(tmp_path / 'a.py', {'depths.5': 3})


def test_build_model_uses_the_configs_scope():
    cfg = config(SEGMENTOR, data_preprocessor=dict(type='SegDataPreProcessor', mean=[1.0] * 3, std=[2.0] * 3))
    before, scope = cfg.to_dict(), DefaultScope.get_current_instance()
    model = build_model(cfg)
    assert model.data_preprocessor.mean.flatten().tolist() == [1.0] * 3, 'the top-level preprocessor as in the Runner'
    assert cfg.to_dict() == before
    assert DefaultScope.get_current_instance() is scope


def test_build_model_loads_no_pretrained_weights():
    backbone = BACKBONE | dict(init_cfg=dict(type='Pretrained', checkpoint='no/such/file.pth'))
    assert build_model(config(SEGMENTOR | dict(backbone=backbone))).backbone.embed_dims == 16


@pytest.mark.parametrize(
    ('model', 'sentence'),
    [
        (None, 'has no `model`'),
        (SEGMENTOR | dict(type='EncoderDecodr'), "model: unknown type 'EncoderDecodr', did you mean 'EncoderDecoder'?"),
        (
            SEGMENTOR | dict(backbone=dict(type='mmvittm.ViTM')),
            "model.backbone: unknown type 'mmvittm.ViTM', did you mean 'mmvittm.ViTTM'?",
        ),
        (SEGMENTOR | dict(backbone=dict(depth=2)), "model.backbone: the key 'type' is missing"),
        (
            SEGMENTOR | dict(backbone=BACKBONE | dict(patch_sise=16)),
            'model.backbone (VisionTransformer): VisionTransformer.__init__() got an unexpected keyword argument '
            "'patch_sise', did you mean 'patch_size'?",
        ),
        (
            SEGMENTOR | dict(decode_head=HEAD | dict(in_chanels=16)),  # an argument of the parent class
            'model.decode_head (FCNHead): BaseDecodeHead.__init__() got an unexpected keyword argument '
            "'in_chanels', did you mean 'in_channels'?",
        ),
        (
            dict(type='EncoderDecoder', backbone=BACKBONE),
            "model (EncoderDecoder): EncoderDecoder.__init__() missing 1 required positional argument: 'decode_head'",
        ),
        (
            SEGMENTOR | dict(auxiliary_head=[HEAD, dict(type='FCNHead')]),
            'model.auxiliary_head.1 (FCNHead): BaseDecodeHead.__init__() missing 2 required positional arguments',
        ),
        (
            SEGMENTOR | dict(backbone=BACKBONE | dict(arch='huger')),
            'model.backbone (VisionTransformer): Arch huger is not in default archs',
        ),
        (
            SEGMENTOR | dict(decode_head=HEAD | dict(num_classes=2, out_channels=7)),
            'model.decode_head (FCNHead): out_channels should be equal to num_classes',
        ),
    ],
)
def test_model_that_cannot_be_built(model, sentence):
    with pytest.raises(UserError, match=f'tiny.py.*{re.escape(sentence)}') as error:
        build_model(config(model))
    assert '\n' not in str(error.value)


def test_part_that_builds_another_one_of_its_own():
    """The innermost part that the config has is named; one without a type is no other dict without one."""

    class Outer:
        def __init__(self) -> None:
            HOOKS.build(dict(type='NoSuchHook'))

    cfg = config(SEGMENTOR, custom_hooks=[dict(type=Outer)], env_cfg=dict())
    with pytest.raises(UserError, match=r'custom_hooks.0 \(Outer\): NoSuchHook is not in'), explain_config_errors(cfg):
        HOOKS.build(dict(type=Outer))
    with pytest.raises(KeyError), explain_config_errors(cfg):
        HOOKS.build(dict(interval=1))


REPEATED = dict(type='RepeatDataset', times=2, dataset=dict(type='ADE20K'))


@pytest.mark.parametrize(
    ('registry', 'part', 'options', 'sentence'),
    [
        (
            DATASETS,
            REPEATED,
            dict(train_dataloader=dict(dataset=REPEATED)),
            "train_dataloader.dataset.dataset: unknown type 'ADE20K'",
        ),
        (
            HOOKS,
            dict(type='EMAHok'),
            dict(custom_hooks=[dict(type='EMAHok')]),
            "custom_hooks.0: unknown type 'EMAHok', did you mean 'EMAHook'?",
        ),
        (
            METRICS,
            dict(type='CityscapesMetric'),
            dict(val_evaluator=dict(type='CityscapesMetric')),
            'val_evaluator (CityscapesMetric): ',
        ),
    ],
    ids=['dataset', 'hook', 'metric'],
)
def test_place_outside_the_model(registry, part, options, sentence):
    cfg = config(SEGMENTOR, **options)
    with (
        pytest.raises(UserError, match=f'tiny.py: {re.escape(sentence)}'),
        explain_config_errors(cfg),
        DefaultScope.overwrite_default_scope('mmseg'),
    ):
        registry.build(part)


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        ({'runner_type': 'FlexRunner'}, "unknown runner_type 'FlexRunner': choose one of FlexibleRunner, Runner"),
        (
            {'optim_wrapper.optimizer.type': 'Adamm'},
            "optim_wrapper.optimizer: unknown type 'Adamm', did you mean",
        ),
        (
            {'optim_wrapper.constructor': 'LearningRateDecayOptimizerConstructor'},
            "optim_wrapper: the layer decay of mmseg knows no ViTTM, use constructor='mmvittm.Layer",
        ),
        (
            {'optim_wrapper.constructor': 'mmseg.LayerDecayOptimizerConstructor'},
            'optim_wrapper: the layer decay of mmseg knows no ViTTM',
        ),
        ({'optim_wrapper.optimizer.lr': -1}, 'optim_wrapper.optimizer (AdamW): Invalid learning rate: -1'),
        ({'train_cfg.type': 'IterBasedTrainLop'}, "train_cfg: unknown type 'IterBasedTrainLop', did you mean 'Iter"),
        ({'train_dataloader.sampler.type': 'X'}, "train_dataloader.sampler: unknown type 'X'"),
        ({'val_evaluator.iou_metrics': ['mIoUU']}, "the first step of the val loop failed: metrics ['mIoUU'] is not"),
        ({'val_dataloader.dataset.type': 'X'}, "val_dataloader.dataset: unknown type 'X'"),
        ({'train_dataloader.dataset.pipeline.0.type': 'X'}, "train_dataloader.dataset.pipeline.0: unknown type 'X'"),
        ({'train_dataloader.dataset.pipeline.3.crop_size': (0, 1)}, 'train_dataloader.dataset.pipeline.3 (RandomCrop)'),
        (
            {'train_dataloader.dataset.pipeline.3.type': None},
            "train_dataloader.dataset.pipeline.3: unknown type 'None'",
        ),
        ({'val_dataloader.sampler.type': ''}, "val_dataloader.sampler: unknown type ''"),
        ({'model.decode_head.in_index': 9}, 'the first step of the train loop failed: '),
        ({'train_cfg': None}, 'config.py: train_dataloader, train_cfg, and optim_wrapper should be either all None'),
        ({'default_scope': 5}, 'default_scope must be a name such as mmseg, not 5'),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else '',
)
def test_config_that_fails_before_the_first_step(tmp_path, options, sentence):
    cfg = base_config(write_data(tmp_path))
    for name, value in options.items():
        place = name.split('.')
        cfg = changed(cfg, tuple(int(key) if key.isdigit() else key for key in place), value)
    result = judge(Case('', lambda folder: train_with(cfg, folder)), tmp_path)
    assert result.kind == 'sentence' and sentence in result.text
    if 'traceback: ' in result.text:
        log = tmp_path / re.search(r'traceback: (.*)\)', result.text)[1]
        assert log.read_text().startswith('Traceback')


@pytest.mark.parametrize('constructor', ['LearningRateDecayOptimizerConstructor', 'LayerDecayOptimizerConstructor'])
def test_layer_decay_of_mmseg_for_its_own_backbones(constructor):
    model = dict(backbone=dict(type='mmpretrain.ConvNeXt'))
    check_optimizer(Config(dict(model=model, optim_wrapper=dict(constructor=constructor), default_scope='mmseg')))


def test_error_after_the_first_step_keeps_its_traceback():
    cfg, first_step = config(SEGMENTOR), FirstStepHook()

    def fail() -> None:
        with explain_config_errors(cfg, first_step):
            raise KeyError('a defect')

    first_step.before_train_epoch(None)
    with pytest.raises(UserError, match=r'config tiny.py: the first step of the train loop failed: a defect'):
        fail()
    first_step.after_train_iter(None, 0)
    with pytest.raises(KeyError):
        fail()
    first_step.before_val_epoch(None)
    with pytest.raises(UserError, match='the first step of the val loop failed'):
        fail()
    first_step.after_val_epoch(None)
    with pytest.raises(KeyError):
        fail()


def test_registries_are_left_as_they_were():
    before = HOOKS.build_func, DATASETS.build_func
    with explain_config_errors(config(SEGMENTOR)):
        assert HOOKS.build_func is not before[0]
    assert (HOOKS.build_func, DATASETS.build_func) == before


@pytest.mark.parametrize(
    ('text', 'sentence'),
    [
        ('a: !!python/object/apply:os.system ["touch pwned"]', 'could not determine a constructor for the tag'),
        ('a: !!python/name:os.system', 'could not determine a constructor for the tag'),
    ],
)
def test_yaml_config_runs_no_code(tmp_path, monkeypatch, text, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'bad.yaml').write_text(text)
    (tmp_path / 'child.py').write_text("_base_ = './bad.yaml'")
    for name in ('bad.yaml', 'child.py'):
        with pytest.raises(UserError, match=sentence):
            load_config(tmp_path / name)
    assert not (tmp_path / 'pwned').exists()


def test_yaml_config_with_a_tuple(tmp_path):
    Config(dict(sizes=(1, 2))).dump(tmp_path / 'a.yaml')
    assert load_config(tmp_path / 'a.yaml').sizes == (1, 2)


@pytest.mark.parametrize(
    ('option', 'value', 'sentence'),
    [
        ('model.backbone.drop_path_rate', 2, 'must be at least 0 and below 1, not 2'),
        ('model.backbone.drop_path_rate', -1, 'must be at least 0 and below 1, not -1'),
        ('model.backbone.drop_path_rate', 1.0, 'must be at least 0 and below 1, not 1.0'),
        ('model.backbone.drop_path_rate', float('nan'), 'must be at least 0 and below 1, not nan'),
        ('optim_wrapper.clip_grad.max_norm', -1, 'must be a number above 0'),
        ('optim_wrapper.clip_grad.clip_value', 0, 'must be a number above 0'),
        ('train_cfg.max_iters', 0, 'must be a number above 0'),
        ('train_cfg.max_epochs', float('inf'), 'must be a number above 0'),
        ('train_cfg.val_interval', {'type': 'X'}, r"must be a number above 0, not \{'type': 'X'\}"),
        ('data_preprocessor.mean', [0, float('inf'), 1], 'must be finite, not inf'),
        ('data_preprocessor.std', [1, 0, 1], 'must be a number above 0, not 0'),
    ],
)
def test_value_that_makes_no_sense(tmp_path, option, value, sentence):
    (tmp_path / 'a.py').write_text('model = dict(backbone=dict(drop_path_rate=0.1))')
    with pytest.raises(UserError, match=f'{option} {sentence}'):
        load_config(tmp_path / 'a.py', {option: value})


def test_value_that_is_none(tmp_path):
    (tmp_path / 'a.py').write_text('data_preprocessor = dict(mean=None, std=None)')
    assert load_config(tmp_path / 'a.py').data_preprocessor == dict(mean=None, std=None)


@pytest.mark.parametrize(
    ('words', 'text', 'folder'),
    [
        ([], '', 'work_dirs/tiny'),
        ([], "work_dir = 'mine'", 'mine'),
        (['--work-dir', 'given'], "work_dir = 'mine'", 'given'),
    ],
)
def test_settings_of_a_run(tmp_path, monkeypatch, words, text, folder):
    monkeypatch.setenv('LOCAL_RANK', '0')
    (tmp_path / 'tiny.py').write_text(f"strategy = dict(type='mmvittm.FSDPStrategy')\n{text}")
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    add_common_arguments(parser)
    cfg = config_from_args(parser.parse_args([str(tmp_path / 'tiny.py'), *words]))
    assert cfg.work_dir == folder
    assert 'strategy' not in cfg, 'of a run of one process'


def test_metric_arguments_of_the_test():
    cfg = config(SEGMENTOR, test_evaluator=[dict(type='IoUMetric'), dict(type='IoUMetric', iou_metricss=['mIoU'])])
    with pytest.raises(UserError, match=r"test_evaluator\.1 \(IoUMetric\): unexpected argument 'iou_metricss'"):
        check_metric_arguments(cfg)


def test_topk_may_be_all_classes():
    model = dict(head=dict(num_classes=5))
    check_metric_arguments(config(model, val_evaluator=dict(type='mmpretrain.Accuracy', topk=(1, 5))))
    with pytest.raises(UserError, match='val_evaluator: topk of 6 with 5 classes'):
        check_metric_arguments(config(model, val_evaluator=dict(type='mmpretrain.Accuracy', topk=6)))


def test_error_that_is_not_the_configs():
    with pytest.raises(KeyError, match='a defect'), explain_config_errors(config(SEGMENTOR)):
        raise KeyError('a defect')
    with pytest.raises(MemoryError), explain_config_errors(config(SEGMENTOR), FirstStepHook()):
        raise MemoryError


@pytest.mark.parametrize(
    ('cfg', 'size'),
    [
        (dict(model=dict(backbone=dict(img_size=224))), (224, 224)),
        (dict(model=dict(backbone=dict(img_size=224), data_preprocessor=dict(size=(48, 64)))), (48, 64)),
        (dict(model=dict(data_preprocessor=dict(size=(8, 8))), crop_size=(16, 32)), (8, 8)),
        (dict(model=dict(data_preprocessor=dict(size=(8, 8))), test_size=(16, 32)), (16, 32)),
        (dict(model=dict(backbone=dict(img_size=224)), crop_size=(16, 32)), (16, 32)),
        (dict(model=dict(data_preprocessor=dict(test_cfg=dict(size=(5, 6)))), crop_size=(16, 32)), (5, 6)),
        (
            dict(model=dict(data_preprocessor=dict(test_cfg=dict(size_divisor=32)), backbone=dict(img_size=[7, 9]))),
            (7, 9),
        ),
    ],
)
def test_input_size_precedence(cfg, size):
    assert input_size(config(**cfg)) == size


@pytest.mark.parametrize(
    ('cfg', 'sentence'),
    [
        (dict(model=dict(backbone=dict(depth=1))), 'tiny.py sets no test size .*--shape'),
        (dict(crop_size=(0, 32)), r'tiny.py: crop_size must be one or two positive integers, not \(0, 32\)'),
        (dict(crop_size=(8, 8, 8)), 'crop_size must be'),
        (dict(crop_size='large'), "crop_size must be .* not 'large'"),
        (dict(crop_size=0.5), 'crop_size must be .* not 0.5'),
    ],
)
def test_config_without_input_size(cfg, sentence):
    with pytest.raises(UserError, match=sentence):
        input_size(config(**cfg))


def test_atomic_path_replaces_the_file_only_on_success(tmp_path):
    target = tmp_path / 'new' / 'result.json'
    with atomic_path(target) as temporary:
        temporary.write_text('first')
        assert temporary.parent == target.parent
        assert temporary.suffix == '.json'
        assert not target.exists()
    assert target.read_text() == 'first'

    with pytest.raises(KeyboardInterrupt), atomic_path(target) as temporary:
        temporary.write_text('half of the sec')
        raise KeyboardInterrupt
    assert target.read_text() == 'first'
    assert list(target.parent.iterdir()) == [target]


def test_atomic_path_refuses_what_it_cannot_write(tmp_path):
    (tmp_path / 'file').touch()
    for path, sentence in ((tmp_path, 'it is a folder'), (tmp_path / 'file' / 'out.json', 'cannot write .*out.json')):
        with pytest.raises(UserError, match=sentence), atomic_path(path):
            pytest.fail('the block must not run')
