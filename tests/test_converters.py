"""Weights in and out: the authors' layout, plain ViTs, the tools, and what they refuse."""

import logging
import os
import pickle
import re
import runpy
import sys
from collections import OrderedDict
from hashlib import sha256
from math import isqrt
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from helpers.golden import CASES, Golden, relative_error
from helpers.tiny import ARCH, images, randomize, tiny_backbone, tiny_vittm
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint
from mmpretrain.models import DistilledVisionTransformer, VisionTransformer
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mmvittm.errors import UserError
from mmvittm.models import ViTTM
from mmvittm.models.token_embeds import resample_pos_embed
from mmvittm.weights import (
    PlainVit,
    authors_to_mmvittm,
    infer_authors_arch,
    init_from_vit,
    mmvittm_to_authors,
    resize_patch_embed,
)
from mmvittm.weights.patch_resize import KERNELS, resize_matrix

CONVERTERS = ROOT / 'tools' / 'model_converters'
UNUSED = ('cls_token', 'pos_embed', 'patch_embed.')


@pytest.fixture
def run_here(monkeypatch, capsys):
    """Run a converter as its script, in this process, since an import takes seconds: ``(status, stdout, stderr)``."""

    def run(tool, *args):
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, args)])
        monkeypatch.syspath_prepend(str(CONVERTERS))
        monkeypatch.setenv('COLUMNS', '120')
        status = 0
        try:
            runpy.run_path(str(CONVERTERS / tool), run_name='__main__')
        except SystemExit as error:
            status = error.code
        out, err = capsys.readouterr()
        return status, out, f'{status}\n{err}'

    return run


def assert_same(ours, others):
    assert ours.keys() == others.keys()
    for key, value in ours.items():
        assert torch.equal(value, others[key]), key


def prefixed(prefix):
    return lambda weights: {f'{prefix}{key}': value for key, value in weights.items()}


def backbone_weights(model):
    return prefixed('backbone.')(model.state_dict())


def patches(memory, process):
    """Token embeddings of the given patch sizes."""
    embeds = dict(memory_embed=memory, process_embed=process)
    return {name: dict(type='PatchTokens', patch_size=size) for name, size in embeds.items()}


def used_weights(golden):
    """Weights of the authors' forward pass, by a rule written by hand: LinearAttention alone ignores a projection."""
    linear = golden.case['rw_head'] == 'LinearAttention'
    return {
        key: value
        for key, value in golden.weights.items()
        if not key.startswith(UNUSED) and not (linear and '_head.' in key and '.proj.' in key)
    }


# ---------------------------------------------------------------- the authors' layout


@pytest.mark.parametrize('name', CASES)
def test_round_trips(name):
    golden = Golden.load(name)
    ours = authors_to_mmvittm(golden.weights)
    theirs = mmvittm_to_authors(ours)
    assert_same(theirs, used_weights(golden))
    assert_same(authors_to_mmvittm(theirs), ours)


TOKENS = dict(out_indices=-1, out_stream='tokens')


@pytest.mark.parametrize('name', CASES)
def test_inferred_config_gives_the_same_tokens(name):
    golden = Golden.load(name)
    inferred = infer_authors_arch(
        golden.weights, num_heads=2, fusion='EraseFusion' if name == 'linear_erase' else 'AddFusion'
    )
    assert inferred['num_classes'] == 7
    model = MODELS.build(inferred['backbone'] | TOKENS).eval()
    model.load_state_dict(golden.converted('backbone'))
    with torch.inference_mode():
        process, memory = model(golden.tensors['input'])[0]
    assert relative_error(process, golden.tensors['process_tokens']) < 1e-5
    assert relative_error(memory, golden.tensors['memory_tokens']) < 1e-5


def averaged(weights):
    return dict(prefixed('module.')(weights), n_averaged=torch.tensor(7))


WRAPPED = dict(
    ema=averaged,
    compiled=prefixed('_orig_mod.'),
    ema_of_compiled=lambda weights: averaged(prefixed('_orig_mod.')(weights)),
    lightning=lambda weights: dict(epoch=3, state_dict=prefixed('model.')(weights), optimizer_states=[]),
    lightning_without_prefix=lambda weights: dict(state_dict=weights, loops={}),
    lightning_of_ema=lambda weights: dict(state_dict=prefixed('model.')(averaged(weights))),
    lightning_of_compiled=lambda weights: dict(state_dict=prefixed('model._orig_mod.')(weights)),
    nested_twice=lambda weights: dict(state_dict=dict(model=averaged(weights))),
    ordered=lambda weights: OrderedDict(reversed(weights.items())),
)


@pytest.mark.parametrize('wrapping', WRAPPED)
def test_wrappers(wrapping):
    weights = Golden.load('linear_memory_mlp').weights
    plain = authors_to_mmvittm(weights)
    wrapped = WRAPPED[wrapping](weights)
    assert_same(authors_to_mmvittm(wrapped), plain)
    assert infer_authors_arch(wrapped, num_heads=2) == infer_authors_arch(weights, num_heads=2)


@pytest.mark.parametrize(
    'change, sentence',
    [
        (lambda w: dict(w, extra=torch.ones(1)), r"layout of ViTTM's authors \(unknown: extra\)"),
        (lambda w: w | {f'blocks.{i}.gate.weight': torch.ones(1) for i in (0, 1)}, r'blocks\.0\.gate\.weight \(and 1'),
        (lambda w: w | {'read_head.0.r.weight': torch.ones(1)}, 'read_head.0.r.weight'),
        (lambda w: w | {'mem_blocks.0.q.weight': torch.ones(1)}, 'mem_blocks.0.q.weight'),
        (lambda w: dict(w, epoch=3), 'unknown: epoch'),
        (lambda w: w | {'head.bias': [0.0]}, r'no tensor: head\.bias'),
        (lambda w: w | {'a.b': torch.ones(1), 'head.bias': None}, r'unknown: a\.b; no tensor: head\.bias'),
        (lambda w: w | {'module.head.bias': torch.zeros(7)}, 'head.bias and module.head.bias are the same weight'),
        (lambda w: {}, 'no weights'),
        (lambda w: dict(n_averaged=torch.tensor(1)), 'no weights'),
    ],
)
def test_refused_keys(change, sentence):
    weights = Golden.load('linear_memory_mlp').weights
    with pytest.raises(UserError, match=sentence):
        authors_to_mmvittm(change(weights))


@pytest.mark.parametrize(
    'components, unknown',
    [
        (dict(head='DynaMixer'), r'read_head\.compress'),
        (dict(memory_block='MemoryConvNeXt'), r'memory_block\.encoder'),
    ],
)
def test_components_the_authors_lack_are_refused(components, unknown):
    with pytest.raises(UserError, match=unknown):
        mmvittm_to_authors(backbone_weights(tiny_vittm(**components)))


@pytest.mark.parametrize(
    'change, options, sentence',
    [
        ({}, dict(num_heads=None), 'width of 16 is not a multiple of 64'),
        ({'process_norm.weight': None, 'memory_pos_embed': None}, {}, 'memory_pos_embed is missing'),
        ({'memory_embedder.proj.weight': None}, {}, '64 memory tokens of 16×16 pixels and 16 process'),
        ({'memory_pos_embed': torch.zeros(1, 60, 16)}, {}, '60 memory tokens of 4×4'),
        ({'memory_pos_embed': torch.zeros(64, 16)}, {}, r'memory_pos_embed has the shape \(64, 16\)'),
        ({}, dict(img_size=(32, 48)), 'do not cover an image of 32×48'),
    ],
)
def test_shapes_that_are_no_model(change, options, sentence):
    weights = Golden.load('linear_add_m4_p8').weights | change
    weights = {key: value for key, value in weights.items() if value is not None}
    with pytest.raises(UserError, match=sentence):
        infer_authors_arch(weights, **dict(num_heads=2) | options)


def test_infers_the_memory_block_of_each_block():
    memory_block = [None, dict(type='MemoryMLP', mlp_ratio=2.0)]
    weights = mmvittm_to_authors(backbone_weights(randomize(MODELS.build(tiny_backbone(memory_block=memory_block)))))
    assert infer_authors_arch(weights, num_heads=2)['backbone']['memory_block'] == memory_block


def test_infers_what_is_not_square_nor_rgb():
    model = ViTTM(
        arch=dict(embed_dims=16, num_layers=1, num_heads=4, feedforward_channels=24),
        img_size=(32, 48),
        in_channels=4,
        **patches((4, 8), 16),
        qkv_bias=False,
    )
    inferred = infer_authors_arch(mmvittm_to_authors(backbone_weights(model)), num_heads=4, img_size=(32, 48))
    assert inferred['num_classes'] is None
    again = MODELS.build(inferred['backbone'])
    again.load_state_dict(model.state_dict())
    image = torch.randn(1, 4, 32, 48, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(image)[0], model(image)[0])


def test_infers_the_smallest_whole_image():
    """Of 15×15 patches of 4 pixels and 8×8 of 8: 60 pixels a side."""
    weights = {f'backbone.{key}': value for key, value in tiny_vittm(img_size=58).state_dict().items()}
    assert infer_authors_arch(mmvittm_to_authors(weights), num_heads=2)['backbone']['img_size'] == 60


def test_published_names():
    with torch.device('meta'):
        model = ViTTM('small')
    backbone = infer_authors_arch(mmvittm_to_authors(backbone_weights(model)))['backbone']
    assert backbone['arch'] == 'small'
    assert backbone['img_size'] == 224
    assert backbone['rw_head'] == dict(type='LinearAttention', latent_ratio=4)
    assert backbone.items() >= patches(28, 28).items()


def test_memory_embedder_stored_as_patch_embed():
    ours = backbone_weights(ViTTM(arch=ARCH, img_size=64, **patches(16, 32)))
    theirs = mmvittm_to_authors(ours)
    shared = {key.replace('memory_embedder', 'patch_embed'): value for key, value in theirs.items()}
    assert 'patch_embed.proj.weight' in shared and 'memory_embedder.proj.weight' not in shared
    assert_same(authors_to_mmvittm(shared), ours)
    # Where both are there, the one that is used counts.
    stale = {key: torch.zeros_like(value) for key, value in shared.items() if key.startswith('patch_embed')}
    assert_same(authors_to_mmvittm(theirs | stale), ours)


# ---------------------------------------------------------------- patch embeddings


def smooth_patches(size, number=32):
    """Random sums of the lowest few waves, ``(number, 3, size, size)`` in fp64."""
    generator = torch.Generator().manual_seed(0)
    axis = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    waves = torch.stack([torch.cos(torch.pi * k * axis) for k in range(3)])
    amplitudes = torch.randn(number, 3, 3, 3, generator=generator, dtype=torch.float64)
    return torch.einsum('ncij,ih,jw->nchw', amplitudes, waves, waves)


def resized(patches, size, kernel):
    return F.interpolate(patches, (size, size), mode=kernel, antialias=True)


def embedded(patches, weight):
    return torch.einsum('nchw,dchw->nd', patches, weight)


@pytest.mark.parametrize('kernel', KERNELS)
@pytest.mark.parametrize('source, target, tolerance', [(16, 28, 1e-10), (16, 32, 1e-10), (8, 9, 1e-10), (16, 8, 0.05)])
def test_resized_patches_are_embedded_alike(kernel, source, target, tolerance):
    generator = torch.Generator().manual_seed(1)
    # Growing is exact for whatever patch; shrinking loses what a smooth patch has little of.
    noise = torch.randn(32, 3, source, source, generator=generator, dtype=torch.float64)
    patches = noise if target > source else smooth_patches(source)
    weight = torch.randn(5, 3, source, source, generator=generator, dtype=torch.float64)
    if target < source:
        weight = resized(smooth_patches(8, number=5), source, kernel)
    before = embedded(patches, weight)
    after = embedded(resized(patches, target, kernel), resize_patch_embed(weight, (target, target), kernel))
    assert relative_error(after, before) < tolerance
    # Plainly interpolated weights would see something else.
    plain = embedded(resized(patches, target, kernel), resized(weight, target, kernel))
    assert relative_error(plain, before) > 10 * tolerance


def test_resized_patch_is_the_dense_pseudo_inverse():
    weight = torch.randn(2, 3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    dense = torch.kron(resize_matrix(6, 4), resize_matrix(5, 8))
    expected = (torch.linalg.pinv(dense.T) @ weight.flatten(2).unsqueeze(-1)).reshape(2, 3, 4, 8)
    assert relative_error(resize_patch_embed(weight, (4, 8)), expected) < 1e-10


def test_unknown_kernel():
    with pytest.raises(UserError, match="unknown kernel 'nearest'"):
        resize_patch_embed(torch.zeros(1, 3, 4, 4), (8, 8), 'nearest')


# ---------------------------------------------------------------- from a plain ViT


def tiny_vit(cls=VisionTransformer, **options):
    model = randomize(cls(arch=ARCH, img_size=32, patch_size=8, **options))
    model.eval()  # mmpretrain's returns None
    return model


def timm_layout(distilled=False, layer_scale=False, class_position=True):
    """Weights under the names of timm's vision_transformer.py and deit.py."""
    shapes = {
        'cls_token': (1, 1, 16),
        'pos_embed': (1, 16 + (1 + distilled) * class_position, 16),
        'patch_embed.proj.weight': (16, 3, 8, 8),
        'patch_embed.proj.bias': (16,),
        'norm.weight': (16,),
        'norm.bias': (16,),
        'head.weight': (5, 16),
        'head.bias': (5,),
    }
    if distilled:
        shapes |= {'dist_token': (1, 1, 16), 'head_dist.weight': (5, 16), 'head_dist.bias': (5,)}
    for i in range(2):
        block = {'attn.qkv': (48, 16), 'attn.proj': (16, 16), 'mlp.fc1': (32, 16), 'mlp.fc2': (16, 32)}
        shapes |= {f'blocks.{i}.{name}.weight': shape for name, shape in block.items()}
        shapes |= {f'blocks.{i}.{name}.bias': shape[:1] for name, shape in block.items()}
        shapes |= {f'blocks.{i}.norm{n}.{param}': (16,) for n in (1, 2) for param in ('weight', 'bias')}
        shapes |= {f'blocks.{i}.ls{n}.gamma': (16,) for n in (1, 2)} if layer_scale else {}
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def mmpretrain_layout(cls=VisionTransformer, prefix='backbone.', **options):
    head = {'head.layers.head.weight': torch.zeros(5, 16)}
    return prefixed(prefix)(tiny_vit(cls, **options).state_dict()) | (head if prefix else {})


SOURCES = dict(
    timm=(timm_layout, 1),
    timm_distilled=(lambda: timm_layout(distilled=True), 2),
    timm_deit3=(lambda: timm_layout(layer_scale=True, class_position=False), 0),
    mmpretrain=(mmpretrain_layout, 1),
    mmpretrain_distilled=(lambda: mmpretrain_layout(DistilledVisionTransformer), 2),
    mmpretrain_backbone=(lambda: mmpretrain_layout(prefix=''), 1),
    mmpretrain_no_class_token=(lambda: mmpretrain_layout(with_cls_token=False, out_type='featmap'), 0),
    ema=(lambda: averaged(timm_layout()), 1),
    nested=(lambda: dict(model=timm_layout()), 1),
)


def vittm_for(vit, memory_patch=4, process_patch=12, img_size=72):
    torch.manual_seed(0)
    model = ViTTM(img_size=img_size, **patches(memory_patch, process_patch), **vit.backbone_options(num_heads=2))
    model.init_weights()
    return model


@pytest.mark.parametrize('name', SOURCES)
def test_start_from_a_vit(name):
    make, extra_tokens = SOURCES[name]
    state_dict = make()
    plain = state_dict.get('model', state_dict)
    plain = {key.removeprefix('module.').removeprefix('backbone.'): value for key, value in plain.items()}
    vit = PlainVit.from_state_dict(state_dict)
    model = vittm_for(vit)
    fresh = {key: value.clone() for key, value in model.state_dict().items()}
    report = init_from_vit(model, vit)
    weights = model.state_dict()

    # Values by the names that both projects document, not through the table of rules.
    timm = 'blocks.0.mlp.fc1.weight' in plain
    names = (
        {'norm1': 'ln1', 'attn.qkv': 'attn.qkv', 'attn.proj': 'attn.proj', 'norm2': 'ln2'}
        | {'mlp.fc1': 'ffn.layers.0.0', 'mlp.fc2': 'ffn.layers.1'}
    )  # fmt: skip
    for i in range(2):
        for theirs, ours in names.items():
            for param in ('weight', 'bias'):
                source = f'blocks.{i}.{theirs}.{param}' if timm else f'layers.{i}.{ours}.{param}'
                assert torch.equal(weights[f'layers.{i}.vit_block.{ours}.{param}'], plain[source]), source
    final, patches = ('norm', 'patch_embed.proj') if timm else ('ln1', 'patch_embed.projection')
    assert torch.equal(weights['process_norm.weight'], plain[f'{final}.weight'])
    positions = plain['pos_embed'][:, extra_tokens:]
    for embed, patch in (('memory_embed', 4), ('process_embed', 12)):
        side = 72 // patch
        assert torch.equal(weights[f'{embed}.pos_embed'], resample_pos_embed(positions, (4, 4), (side, side)))
        resized_weight = resize_patch_embed(plain[f'{patches}.weight'], (patch, patch))
        assert torch.equal(weights[f'{embed}.patches.projection.weight'], resized_weight)
        assert torch.equal(weights[f'{embed}.patches.projection.bias'], plain[f'{patches}.bias'])
    for key in report.fresh:
        assert torch.equal(weights[key], fresh[key])
        assert any(part in key for part in ('read_', 'write_')), key
    assert sorted(report.copied + report.resized + report.fresh) == sorted(weights)
    assert sorted(report.resized) == sorted(key for key in weights if key.endswith(('pos_embed', 'projection.weight')))
    assert all(key.startswith(('cls_token', 'dist_token', 'head')) for key in report.dropped)


def test_layer_scale_is_copied():
    state_dict = timm_layout(layer_scale=True, class_position=False)
    vit = PlainVit.from_state_dict(state_dict)
    model = vittm_for(vit)
    init_from_vit(model, vit)
    assert torch.equal(model.layers[1].vit_block.attn.gamma1.weight, state_dict['blocks.1.ls1.gamma'])
    assert torch.equal(model.layers[1].vit_block.ffn.gamma2.weight, state_dict['blocks.1.ls2.gamma'])


@torch.inference_mode()
def test_parts_compute_what_they_did_in_the_vit():
    source = tiny_vit()
    vit = PlainVit.from_state_dict(source.state_dict())
    model = vittm_for(vit, memory_patch=8, process_patch=8, img_size=32).eval()
    report = init_from_vit(model, vit)
    assert report.resized == []
    image = images(height=32, width=32)
    tokens = source.patch_embed(image)[0] + source.pos_embed[:, 1:]
    for embed in (model.memory_embed, model.process_embed):
        torch.testing.assert_close(embed(image)[0], tokens)  # a product here, a convolution there
    assert torch.equal(model.layers[1].vit_block(tokens), source.layers[1](tokens))
    # The final norm stands behind the norm of the last write, which starts as gain 1 and bias 0.
    last_tokens = 5 * tokens + 3
    assert relative_error(model.process_norm(model.layers[-1].write_norm(last_tokens)), source.ln1(last_tokens)) < 1e-4


def test_a_model_so_started_trains():
    vit = PlainVit.from_state_dict(tiny_vit().state_dict())
    model = vittm_for(vit, memory_patch=4, process_patch=8, img_size=32)
    init_from_vit(model, vit)
    model = model.train()
    head = torch.nn.Conv2d(16, 2, 1)
    target = torch.randint(0, 2, (4, 4, 4), generator=torch.Generator().manual_seed(0))
    image = images(4, 32, 32)
    trained = [p for p in (*model.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(head(model(image)[0]), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    'change, sentence',
    [
        ({'blocks.0.attn.q_norm.weight': torch.ones(8)}, r'unknown: blocks\.0\.attn\.q_norm\.weight'),
        ({'reg_token': torch.ones(1, 4, 16)}, 'reg_token'),
        ({'norm_pre.weight': torch.ones(16)}, r'norm_pre\.weight'),  # CLIP
        ({'pos_embed': torch.ones(1, 15, 16)}, 'position embedding of 15 tokens'),
        ({'pos_embed': None}, 'pos_embed is missing'),
        ({'patch_embed.proj.weight': None}, r'patches\.projection\.weight is missing'),
        ({'blocks.1.mlp.fc2.bias': None}, r'missing: layers\.1\.vit_block\.ffn\.layers\.1\.bias'),
        ({'blocks.1.ls1.gamma': torch.ones(16)}, r'unexpected: layers\.1\.vit_block\.attn\.gamma1'),
        ({'blocks.1.mlp.fc1.weight': torch.ones(8, 16)}, r'wrong shape: layers\.1\.vit_block\.ffn'),
    ],
)
def test_refused_vits(change, sentence):
    state_dict = {key: value for key, value in (timm_layout() | change).items() if value is not None}
    with pytest.raises(UserError, match=sentence):
        vit = PlainVit.from_state_dict(state_dict)
        init_from_vit(vittm_for(vit), vit)


# ---------------------------------------------------------------- the tools


@pytest.fixture(scope='module')
def converted(run_tool, tmp_path_factory):
    """A reference case through the tool, from ``.pth`` (of an EMA) and from ``.safetensors``."""
    folder = tmp_path_factory.mktemp('converted')
    golden = Golden.load('linear_layer_scale')
    torch.save(averaged(golden.weights), folder / 'theirs.pth')
    save_file(golden.weights, folder / 'theirs.safetensors')
    done = [
        run_tool('model_converters/vittm_to_mmvittm.py', folder / source, folder / target, '--num-heads', 2)
        for source, target in (('theirs.pth', 'ours.safetensors'), ('theirs.safetensors', 'ours.pth'))
    ]
    assert [run.returncode for run in done] == [0, 0], [run.stderr for run in done]
    return folder, golden, done[0].stdout


def test_converted_files_are_complete(converted):
    folder, golden, stdout = converted
    ours = torch.load(folder / 'ours.pth', weights_only=True)
    assert ours['meta'].keys() == {'source', 'source_sha256', 'tool', 'mmvittm_version', 'torch_version'}
    assert ours['meta']['source'] == 'theirs.safetensors'
    assert ours['meta']['source_sha256'] == sha256((folder / 'theirs.safetensors').read_bytes()).hexdigest()
    assert_same(ours['state_dict'], load_file(folder / 'ours.safetensors'))
    assert (folder / 'ours.safetensors').stat().st_mode == (folder / 'ours.pth').stat().st_mode
    with safe_open(folder / 'ours.safetensors', 'pt') as file:
        meta = file.metadata()
    assert (meta['source'], meta['tool'], meta['format']) == ('theirs.pth', 'vittm_to_mmvittm.py', 'pt')
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f'{name}.{suffix}' for name in ('theirs', 'ours') for suffix in ('pth', 'safetensors')
    )

    # The printed config builds the model that the file fits.
    assert '7 classes' in stdout
    snippet = stdout[: stdout.index('Wrote')]
    model = MODELS.build({**Config.fromstring(snippet, '.py').model.backbone, **TOKENS}).eval()
    weights = {key.removeprefix('backbone.'): w for key, w in ours['state_dict'].items() if key.startswith('backbone.')}
    model.load_state_dict(weights, strict=True)
    with torch.inference_mode():
        process, memory = model(golden.tensors['input'])[0]
    assert relative_error(process, golden.tensors['process_tokens']) < 1e-5
    assert relative_error(memory, golden.tensors['memory_tokens']) < 1e-5


def test_way_back_of_a_training_checkpoint(run_tool, tmp_path):
    golden = Golden.load('linear_layer_scale')
    backbone = golden.build_backbone()
    segmentor = torch.nn.ModuleDict(
        dict(backbone=backbone, neck=torch.nn.Conv2d(16, 16, 1), decode_head=torch.nn.Conv2d(16, 2, 1))
    )
    hook = EMAHook()
    hook.before_run(SimpleNamespace(model=segmentor))  # the average starts as the authors' weights
    randomize(segmentor)
    checkpoint = dict(meta=dict(iter=7), state_dict=segmentor.state_dict(), optimizer=dict(param_groups=[dict(lr=0.1)]))
    hook.before_save_checkpoint(None, checkpoint)
    torch.save(checkpoint, tmp_path / 'iter_7.pth')

    done = run_tool(
        'model_converters/mmvittm_to_vittm.py', tmp_path / 'iter_7.pth', tmp_path / 'theirs.pth', '--num-heads', 2
    )
    assert done.returncode == 0, done.stderr
    assert 'averaged' in done.stdout and 'Dropped 4 weights of neck and heads' in done.stdout
    assert 'alibi_slopes' in done.stdout and 'rw_head=dict(' in done.stdout
    classifier = ('head.', 'fc_norm', 'process_head.')
    expected = {key: value for key, value in used_weights(golden).items() if not key.startswith(classifier)}
    assert_same(torch.load(tmp_path / 'theirs.pth', weights_only=True)['state_dict'], expected)


def test_there_and_back_through_both_formats(run_here, converted, tmp_path):
    folder, golden, _ = converted
    for source, target in (('ours.safetensors', 'theirs.pt'), ('ours.pth', 'theirs.safetensors')):
        status, _, err = run_here('mmvittm_to_vittm.py', folder / source, tmp_path / target, '--num-heads', 2)
        assert status == 0, err
    assert_same(load_file(tmp_path / 'theirs.safetensors'), used_weights(golden))
    assert_same(torch.load(tmp_path / 'theirs.pt', weights_only=True)['state_dict'], used_weights(golden))


@pytest.fixture
def info_lines():
    """Messages in the log of mmengine."""
    records = []
    logger = MMLogger.get_current_instance()
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


@pytest.mark.parametrize(
    'img_size, process_patch, lines',
    [
        (32, 8, []),
        (
            (64, 48),
            8,
            ['memory_embed.pos_embed resampled from 8×8 to 16×12', 'process_embed.pos_embed resampled from 4×4 to 8×6'],
        ),
        (
            40,
            8,
            ['memory_embed.pos_embed resampled from 8×8 to 10×10', 'process_embed.pos_embed resampled from 4×4 to 5×5'],
        ),
    ],
)
def test_init_cfg_takes_converted_files(converted, info_lines, img_size, process_patch, lines):
    folder, golden, _ = converted
    cfg = golden.backbone_cfg() | dict(
        img_size=img_size, init_cfg=dict(type='Pretrained', checkpoint=str(folder / 'ours.pth'), prefix='backbone.')
    )
    model = ViTTM(**cfg)
    model.init_weights()
    weights = golden.converted('backbone')
    assert [line for line in info_lines if 'resampled' in line] == lines
    for key, value in model.state_dict().items():
        if key.endswith('pos_embed'):
            embed = model.get_submodule(key.removesuffix('.pos_embed'))
            side = isqrt(weights[key].shape[1])
            assert torch.equal(value, resample_pos_embed(weights[key], (side, side), embed.grid))
        else:
            assert torch.equal(value, weights[key]), key


def test_load_checkpoint_takes_converted_files(converted, info_lines):
    folder, golden, _ = converted
    model = torch.nn.ModuleDict(dict(backbone=ViTTM(**golden.backbone_cfg() | TOKENS | dict(img_size=48))))
    load_checkpoint(model, str(folder / 'ours.pth'))
    weights = golden.converted('backbone')
    assert torch.equal(model.backbone.process_norm.weight, weights['process_norm.weight'])
    assert 'backbone.process_embed.pos_embed resampled from 4×4 to 6×6' in info_lines
    # At the size it was made for, the larger grid's model still computes nearly what the reference does.
    with torch.inference_mode():
        process, _ = model.eval().backbone(golden.tensors['input'])[0]
    assert relative_error(process, golden.tensors['process_tokens']) < 0.3


def test_vit_tool(run_tool, tmp_path):
    torch.save(dict(model=timm_layout(distilled=True)), tmp_path / 'deit.pth')
    options = ('--num-heads', 2, '--memory-patch', 4, '--process-patch', 12, '--img-size', 72, '--kernel', 'bicubic')
    done = run_tool('model_converters/vit_to_mmvittm.py', tmp_path / 'deit.pth', tmp_path / 'ours.pth', *options)
    assert done.returncode == 0, done.stderr
    counts = {line.split('  ')[0].strip(): int(re.search(r'\d+', line)[0]) for line in done.stdout.splitlines()[-5:-1]}
    # 2 blocks × 12, bias of both embeddings, norm; 2 × (kernel, positions); cls, dist, 2 heads
    assert (counts['copied'], counts['resized'], counts['dropped']) == (2 * 12 + 2 + 2, 4, 6)
    snippet = done.stdout[: done.stdout.index('copied')].rsplit(')', 1)[0] + ')'
    checkpoint = torch.load(tmp_path / 'ours.pth', weights_only=True)
    assert (checkpoint['meta']['kernel'], checkpoint['meta']['seed']) == ('bicubic', '0')
    model = torch.nn.ModuleDict(dict(backbone=MODELS.build(Config.fromstring(snippet, '.py').model.backbone)))
    model.load_state_dict(checkpoint['state_dict'], strict=True)
    expected = resize_patch_embed(timm_layout(distilled=True)['patch_embed.proj.weight'], (12, 12), 'bicubic')
    assert torch.equal(model.backbone.process_embed.patches.projection.weight, expected)
    assert counts['fresh'] == len(checkpoint['state_dict']) - counts['copied'] - counts['resized']


def test_vit_tool_draws_by_seed(run_here, tmp_path):
    torch.save(timm_layout(), tmp_path / 'vit.pth')
    heads = []
    for name, seed in (('a', 1), ('b', 1), ('c', 2)):
        args = (tmp_path / 'vit.pth', tmp_path / f'{name}.pth', '--num-heads', 2, '--seed', seed)
        status, _, err = run_here('vit_to_mmvittm.py', *args)
        assert status == 0, err
        weights = torch.load(tmp_path / f'{name}.pth', weights_only=True)['state_dict']
        heads.append(weights['backbone.layers.0.read_head.q.weight'])
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


class Malicious:
    """Unpickled, it would create a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def bad_input(kind, folder):
    """A source and a destination of which one is bad."""
    good, out = folder / 'good.pth', folder / 'out' / 'ours.pth'
    torch.save(Golden.load('linear_add_m4_p8').weights, good)
    if kind == 'truncated.pth':
        (folder / kind).write_bytes(good.read_bytes()[:-5000])
    elif kind == 'truncated.safetensors':
        save_file(Golden.load('linear_add_m4_p8').weights, folder / 'whole.safetensors')
        (folder / kind).write_bytes((folder / 'whole.safetensors').read_bytes()[:-500])
    elif kind == 'malicious.pth':
        torch.save(dict(a=Malicious(folder / 'ran')), folder / kind)
    elif kind == 'malicious.ckpt':
        (folder / kind).write_bytes(pickle.dumps(Malicious(folder / 'ran')))
    elif kind == 'vit.pth':
        torch.save(timm_layout(), folder / kind)
    elif kind == 'list.pth':
        torch.save([torch.ones(1)], folder / kind)
    elif kind == 'text.safetensors':
        (folder / kind).write_text('not weights')
    else:
        (folder / 'folder.pth').mkdir()
        targets = {
            'same': good,
            'folder': folder / 'folder.pth',
            'in_a_file': good / 'ours.pth',
            'suffix': folder / 'ours.npz',
        }
        return (good, targets[kind]) if kind in targets else (folder / kind, out)
    return folder / kind, out


@pytest.mark.parametrize(
    'kind, sentence',
    [
        ('missing.pth', 'checkpoint not found'),
        ('missing.safetensors', 'checkpoint not found'),
        ('truncated.pth', 'truncated'),
        ('truncated.safetensors', 'truncated'),
        ('text.safetensors', 'not a checkpoint'),
        ('malicious.pth', 'may run code'),
        ('malicious.ckpt', 'may run code'),
        ('list.pth', 'holds a list'),
        ('vit.pth', r'layout of .*unknown: '),
        ('same', 'SRC and DST are both'),
        ('folder', 'it is a folder'),
        ('in_a_file', 'cannot write'),
        ('suffix', 'name it .pth'),
    ],
)
@pytest.mark.parametrize('tool', ['vittm_to_mmvittm.py', 'mmvittm_to_vittm.py', 'vit_to_mmvittm.py'])
def test_bad_inputs(run_here, tmp_path, tool, kind, sentence):
    if (tool, kind) == ('vit_to_mmvittm.py', 'vit.pth'):
        kind, sentence = 'good', 'layout of a ViT .*unknown: .*memory_embedder'
    source, target = (
        bad_input(kind, tmp_path) if kind != 'good' else (bad_input('same', tmp_path)[0], tmp_path / 'o.pth')
    )
    before = {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()}
    status, _, err = run_here(tool, source, target, '--num-heads', 2)
    assert isinstance(status, str) and status.startswith('error: ') and '\n' not in status
    assert re.search(sentence, status), err
    assert {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()} == before
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize(
    'tool, args, sentence',
    [
        ('vit_to_mmvittm.py', ('--num-heads', 3), 'num_heads=3 does not divide'),
        ('vit_to_mmvittm.py', ('--num-heads', 0), 'num_heads must be a whole number above 0'),
        ('vit_to_mmvittm.py', (), 'not a multiple of 64'),
        ('vit_to_mmvittm.py', ('--num-heads', 2, '--arch', 'base'), "not 'base'"),
        ('vit_to_mmvittm.py', ('--num-heads', 2, '--memory-patch', 300), 'larger than img_size'),
        ('vit_to_mmvittm.py', ('--num-heads', 2, '--img-size', -1), 'img_size must be'),
    ],
)
def test_bad_options(run_here, tmp_path, tool, args, sentence):
    torch.save(timm_layout(), tmp_path / 'vit.pth')
    status, _, err = run_here(tool, tmp_path / 'vit.pth', tmp_path / 'ours.pth', *args)
    assert re.search(sentence, str(status)), err
    assert [path.name for path in tmp_path.iterdir()] == ['vit.pth']
