"""The classification recipes: the authors' values, weight decay, the learning rate schedule, and a training step."""

import math

import pytest
import torch
from helpers.tiny import build_on_meta, one_thread  # noqa: F401
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATA_SAMPLERS, PARAM_SCHEDULERS, TRANSFORMS, DefaultScope
from mmpretrain.structures import DataSample

import mmvittm
from mmvittm.apis.config import build_model, load_config
from mmvittm.errors import UserError

CONFIGS = mmvittm.configs_dir()
CLASSIFIERS = sorted(
    path.relative_to(CONFIGS).as_posix()
    for data in ('_in21k-p', '_in1k', 'mnist', 'cifar10', 'cifar10-128x128')
    for path in CONFIGS.glob(f'vit*/*{data}.py')
)
ABLATIONS = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob('vittm/ablations/*.py'))

# The authors' table (docs/recipe.md). warmup: steps; min_lr: end of the cosine.
_COLUMNS = dict(
    pretrain=dict(
        classes=10450, batch=4096, lr=1.5e-4, decay=0.03, warmup=10000, min_lr=1e-7, randaugment=(2, 15),
        mixes=dict(Mixup=0.5), erasing=[], drop_path=0.0, bce=False,
    ),
    small=dict(
        classes=1000, batch=4096, lr=1.75e-4, decay=0.03, warmup=3000, min_lr=1e-6, randaugment=(2, 15),
        mixes=dict(Mixup=0.5, CutMix=1.0), erasing=[0.25], drop_path=0.1, bce=True,
    ),
    base=dict(
        classes=1000, batch=2048, lr=2.5e-5, decay=0.1, warmup=3000, min_lr=1e-7, randaugment=(3, 20),
        mixes=dict(Mixup=0.8, CutMix=1.0), erasing=[0.25], drop_path=0.2, bce=True,
    ),
)  # fmt: skip
PAPER = {
    f'{family}/{name}_{config}.py': column
    for family, names in dict(vittm=('vittm-s_28-28', 'vittm-b_28-28'), vit=('vit-s16', 'vit-b16')).items()
    for name, config, column in (
        (names[0], '32xb128-300e_in21k-p', 'pretrain'),
        (names[1], '32xb128-300e_in21k-p', 'pretrain'),
        (names[0], 'in21k-p-pre_32xb128-300e_in1k', 'small'),
        (names[1], 'in21k-p-pre_16xb128-300e_in1k', 'base'),
    )
}


def steps_of(cfg, kind):
    return [step for step in cfg.train_dataloader.dataset.pipeline if step.type == kind]


@pytest.mark.parametrize(('config', 'column'), PAPER.items())
def test_the_authors_values(config, column):
    cfg, want = load_config(CONFIGS / config), _COLUMNS[column]
    gpus = int(config.split('xb')[0].rsplit('_', 1)[1])
    optimizer, (warmup, cosine), (randaugment,), (ema,) = (
        cfg.optim_wrapper.optimizer, cfg.param_scheduler, steps_of(cfg, 'RandAugment'), cfg.custom_hooks
    )  # fmt: skip
    assert want == dict(
        classes=cfg.model.head.num_classes,
        batch=gpus * cfg.train_dataloader.batch_size,
        lr=optimizer.lr,
        decay=optimizer.weight_decay,
        warmup=warmup.end,
        min_lr=cosine.eta_min,
        randaugment=(randaugment.num_policies, randaugment.magnitude_level),
        mixes={mix.type: mix.alpha for mix in cfg.data_preprocessor.batch_augments.augments},
        erasing=[step.erase_prob for step in steps_of(cfg, 'RandomErasing')],
        drop_path=cfg.model.backbone.drop_path_rate,
        bce=cfg.model.head.loss.get('use_sigmoid', False),
    )
    assert (cfg.auto_scale_lr.base_batch_size, cfg.data_preprocessor.num_classes) == (want['batch'], want['classes'])
    assert (optimizer.type, cfg.train_cfg.max_epochs, warmup.by_epoch) == ('AdamW', 300, False)
    assert warmup.start_factor * optimizer.lr == pytest.approx(1e-6)
    assert cfg.optim_wrapper.clip_grad.max_norm == 1.0
    assert (ema.type, ema.momentum) == ('EMAHook', pytest.approx(1 - 0.999))


@pytest.mark.parametrize('config', [config for config, column in PAPER.items() if column != 'pretrain'])
def test_fine_tuning_starts_from_its_own_pretraining(config):
    init = load_config(CONFIGS / config).model.backbone.init_cfg
    folder, name = config.split('/')
    pretraining = f'{name.split("_in21k")[0]}_32xb128-300e_in21k-p'
    assert init == dict(type='Pretrained', prefix='backbone.', checkpoint=f'work_dirs/{pretraining}/epoch_300.pth')
    assert (CONFIGS / folder / f'{pretraining}.py').is_file()


@pytest.mark.parametrize('config', CLASSIFIERS + ABLATIONS)
def test_every_classifier_builds_and_classifies(config):
    """On the meta device, which computes shapes only."""
    cfg = load_config(CONFIGS / config)
    model = build_on_meta(cfg)
    side = cfg.model.backbone.img_size
    logits = model(torch.empty(2, 3, side, side, device='meta'))
    assert logits.shape == (2, cfg.model.head.num_classes)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            assert all(TRANSFORMS.build(step) for step in loader.dataset.pipeline)


@pytest.mark.parametrize('size', ['s', 'b'])
@pytest.mark.parametrize('config', ['32xb128-300e_in21k-p', 'in1k'])
def test_baselines_are_trained_by_the_same_recipe(size, config):
    ours, vit = (
        load_config(next(CONFIGS.glob(pattern)))
        for pattern in (f'vittm/vittm-{size}_28-28*{config}.py', f'vit/vit-{size}16*{config}.py')
    )
    shared = ('optim_wrapper', 'param_scheduler', 'train_cfg', 'custom_hooks', 'data_preprocessor', 'train_dataloader')
    for key in shared:
        assert ours[key] == vit[key], key
    assert ours.model.head.loss == vit.model.head.loss
    assert vit.model.backbone.type == 'VisionTransformer'


@pytest.mark.parametrize(
    'config', [f'{name}_in21k-p-pre_16xb128-300e_in1k.py' for name in ('vittm/vittm-b_28-28', 'vit/vit-b16')]
)
def test_no_decay_on_norms_biases_and_position_embeddings(config):
    cfg = load_config(CONFIGS / config)
    model = build_on_meta(cfg)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decays = {
        names[id(parameter)]: group['weight_decay']
        for group in build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
        for parameter in group['params']
    }
    assert decays.keys() == dict(model.named_parameters()).keys()
    for name, decay in decays.items():
        parameter = model.get_parameter(name)
        exempt = parameter.ndim == 1 or name.endswith(('pos_embed', 'cls_token'))
        assert decay == (0.0 if exempt else 0.1), name


def test_the_schedule_warms_up_by_steps():
    cfg = load_config(CONFIGS / 'vittm/vittm-b_28-28_in21k-p-pre_16xb128-300e_in1k.py')
    steps_per_epoch = 20  # of 626: the warm-up must not depend on it
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=2.5e-5)
    schedulers = []
    for each in cfg.param_scheduler:
        each = ConfigDict({**each})
        if each.pop('convert_to_iter_based', False):
            cls = PARAM_SCHEDULERS.get(each.pop('type'))
            schedulers.append(cls.build_iter_from_epoch(optimizer, **each, epoch_length=steps_per_epoch))
        else:
            schedulers.append(PARAM_SCHEDULERS.build(each, default_args=dict(optimizer=optimizer)))
    rates = []
    for _ in range(300 * steps_per_epoch):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert rates[0] == pytest.approx(1e-6)
    assert rates.index(max(rates)) < 3000
    # at half the schedule only the cosine acts
    assert rates[3000] == pytest.approx(1e-7 + (2.5e-5 - 1e-7) * (1 + math.cos(math.pi / 2)) / 2, rel=0.02)
    assert rates[-1] == pytest.approx(1e-7, rel=0.05)


@pytest.mark.parametrize(
    ('images', 'gpus', 'steps', 'all_steps'),
    [(11060223, 32, 2701, 810300), (1281167, 32, 313, 93900), (1281167, 16, 626, 187800)],
)
def test_the_arithmetic_of_the_comments(images, gpus, steps, all_steps, monkeypatch):
    """Counts the samples of one rank with mmengine's own sampler."""
    monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (0, gpus))
    sampler = DATA_SAMPLERS.build(dict(type='DefaultSampler', dataset=range(images)))
    assert math.ceil(len(sampler) / 128) == steps
    assert 300 * steps == all_steps
    texts = [path.read_text() for path in (CONFIGS / '_base_' / 'recipes').glob('*.py')]
    assert sum(f'{all_steps:,} steps' in ' '.join(text.split()).replace('# ', '') for text in texts) == 1


DECAY = {
    'optim_wrapper.constructor': 'mmvittm.LayerDecayOptimWrapperConstructor',
    'optim_wrapper.paramwise_cfg.layer_decay_rate': 0.75,
}


@pytest.mark.parametrize(
    ('config', 'options', 'head'),
    [
        ('vittm-b_28-28_in21k-p-pre_16xb128-300e_in1k.py', DECAY, 'head.memory_fc.weight'),
        (
            'vittm-b_28-28_in21k-p-pre_16xb128-300e_in1k.py',
            {**DECAY, 'optim_wrapper.constructor': 'LearningRateDecayOptimWrapperConstructor'},  # mmpretrain's own
            'head.memory_fc.weight',
        ),
        ('vittm-b_28-28_upernet_8xb2-160k_ade20k-504x504.py', DECAY, 'decode_head.conv_seg.weight'),
    ],
)
def test_layer_wise_decay_is_an_option(config, options, head):
    """The command of docs/recipe.md: block i of 12 learns at 0.75^(12-i) of the head's rate."""
    cfg = load_config(CONFIGS / 'vittm' / config, options)
    model = build_on_meta(cfg)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    scales = {group['param_name']: group['lr_scale'] for group in groups}
    assert scales.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert scales[head] == 1
    assert scales.get('backbone.process_norm.weight', 1) == 1
    assert scales['backbone.layers.11.read_head.q.weight'] == pytest.approx(0.75)
    assert scales['backbone.layers.0.read_norm.weight'] == pytest.approx(0.75**12)
    assert scales['backbone.memory_embed.pos_embed'] == pytest.approx(0.75**13)
    assert scales['backbone.process_embed.patches.projection.weight'] == pytest.approx(0.75**13)
    assert {group['weight_decay'] for group in groups if group['param_name'].endswith('pos_embed')} == {0.0}


@pytest.mark.parametrize(
    ('paramwise_cfg', 'sentence'),
    [
        (dict(layer_decay_rate=0.75), 'needs a backbone with get_layer_depth, but Linear of Module has none'),
        (None, r'needs optim_wrapper\.paramwise_cfg'),
    ],
)
def test_layer_wise_decay_that_cannot_be(paramwise_cfg, sentence):
    model = torch.nn.Module()
    model.backbone = torch.nn.Linear(1, 1)
    optim_wrapper = dict(
        type='OptimWrapper',
        optimizer=dict(type='SGD', lr=1),
        constructor='mmvittm.LayerDecayOptimWrapperConstructor',
        paramwise_cfg=paramwise_cfg,
    )
    with pytest.raises(UserError, match=f'layer-wise decay {sentence}'):
        build_optim_wrapper(model, optim_wrapper)


_ARCH = dict(arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32))
TINY = dict(vit=_ARCH, vittm=_ARCH | dict(rw_head=dict(type='LinearAttention', latent_ratio=2)))


@pytest.mark.parametrize('config', CLASSIFIERS)
def test_every_recipe_steps(config):
    """One training step with the recipe's preprocessing, mixing, loss and optimizer, and a tiny backbone."""
    torch.manual_seed(0)
    cfg = load_config(CONFIGS / config)
    cfg.model.backbone.update(TINY[config.split('/')[0]])
    cfg.model.head.in_channels = 16
    model = build_model(cfg).train()
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    side = cfg.model.backbone.img_size
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    data = dict(
        inputs=list(torch.randint(0, 256, (4, 3, side, side), dtype=torch.uint8)),
        data_samples=[DataSample().set_gt_label(label) for label in (0, 1, 2, 3)],
    )
    losses = model.train_step(data, optim_wrapper)
    assert all(torch.isfinite(value).all() for value in losses.values())
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert all((parameter != before[name]).any() for name, parameter in model.named_parameters() if 'head' in name)
