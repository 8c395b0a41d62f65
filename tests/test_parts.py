"""Each component alone: its algebra, its errors, its numerics in half precision."""

import re
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from helpers.golden import relative_error
from helpers.tiny import (  # noqa: F401
    ATTENTION_HEADS,
    FUSIONS,
    HEADS,
    MEMORY_BLOCKS,
    images,
    one_thread,
    randomize,
    tiny_vittm,
)
from mmengine.config import Config
from torch import nn
from torch.func import functional_call
from torch.nn.utils import prune

from mmvittm import models, registry
from mmvittm.errors import UserError
from mmvittm.models import ViTTM
from mmvittm.models.builder import build_component
from mmvittm.models.fusions import Fusion
from mmvittm.models.memory_blocks import MemoryBlock
from mmvittm.models.rw_heads import RWHead
from mmvittm.models.rw_heads.base import merge_heads
from mmvittm.models.token_embeds import LearnedTokens, PooledCells, PooledTokens


def cpu_runs_fp16():
    try:
        with torch.autocast('cpu', torch.float16):
            return True
    except RuntimeError:  # before torch 2.3, which also lacks most operators
        return False


FP16 = pytest.mark.skipif(not cpu_runs_fp16(), reason='this torch runs fp16 on GPUs only')
HALF = (torch.bfloat16, pytest.param(torch.float16, marks=FP16))


def build_head(name, source_tokens=9, query_tokens=4, embed_dims=16, **options):
    given = dict(embed_dims=embed_dims, num_heads=2, source_tokens=source_tokens, query_tokens=query_tokens)
    return randomize(build_component(registry.RW_HEADS, RWHead, dict(type=name, **options), **given)).double()


def build_fusion(name, target_tokens=4):
    cfg = dict(type=name)
    return randomize(
        build_component(registry.FUSIONS, Fusion, cfg, embed_dims=16, target_tokens=target_tokens)
    ).double()


def build_memory_block(name, **options):
    return randomize(
        build_component(registry.MEMORY_BLOCKS, MemoryBlock, dict(type=name, **options), embed_dims=16)
    ).double()


def tokens(number, dims=16, batch=2, seed=3):
    return torch.randn(batch, number, dims, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize(
    ('components', 'names'),
    [(registry.RW_HEADS, HEADS), (registry.FUSIONS, FUSIONS), (registry.MEMORY_BLOCKS, MEMORY_BLOCKS)],
)
def test_components_are_registered_and_exported(components, names):
    assert {name: getattr(models, name) for name in names}.items() <= components.module_dict.items()


# Read/write heads


@pytest.mark.parametrize('source_tokens', [4, 9])  # up to 5 tokens it projects first
def test_linear_attention_is_its_quadratic_form(source_tokens):
    head, source, query = build_head('LinearAttention', latent_ratio=2), tokens(source_tokens), tokens(4, seed=4)
    q, k, v = head.q(query), head.k(source), head.v(source)
    for image in range(2):
        for h in range(2):
            phi_q, phi_k = (nn.functional.elu(x[image, :, 4 * h : 4 * h + 4]) + 1 for x in (q, k))
            attention = phi_q @ phi_k.T
            expected = attention / (attention.sum(1, keepdim=True) + 1e-6) @ v[image, :, 8 * h : 8 * h + 8]
            torch.testing.assert_close(head(source, query)[image, :, 8 * h : 8 * h + 8], expected)


def test_focused_features_are_powers_of_the_same_norm():
    head, x = build_head('FocusedLinearAttention', latent_ratio=2), tokens(9, dims=8)
    found = head.features(x)
    for h in (slice(0, 4), slice(4, 8)):
        positive = x[..., h].clamp_min(0) + 1e-6
        powers = positive**3
        expected = powers * positive.norm(dim=-1, keepdim=True) / powers.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(found[..., h], expected)
    sharp = build_head('FocusedLinearAttention', latent_ratio=2, focusing_factor=200)
    tiny = sharp.features(x.float() * 1e-12)  # whose powers underflow
    assert tiny.isfinite().all()
    assert (tiny > 0).any(-1).all()


VALUES = dict(
    LinearAttention=lambda head, source: head.v(source),
    FocusedLinearAttention=lambda head, source: head.v(source),
    CrossAttention=lambda head, source: head.v_norm(head.v(source)),
    LatentAttention=lambda head, source: source,
    LatentCrossAttention=lambda head, source: head.v_norm(head.v(source)),
    DynaMixer=lambda head, source: head.norm(source),
)


@pytest.mark.parametrize('name', VALUES)
def test_the_update_is_map_times_values(name):
    head, source, query = build_head(name), tokens(9), tokens(4, seed=4)
    weights = head.attention_map(source, query)
    assert weights.shape == (2, head.num_heads, 4, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, head.num_heads, 4).double(), rtol=0, atol=1e-5)
    update = merge_heads(weights @ head.split_heads(VALUES[name](head, source)))
    update = head.proj(update) if hasattr(head, 'proj') else update
    torch.testing.assert_close(update, head(source, query), rtol=0, atol=1e-5)


def test_a_head_without_a_map_says_so():
    with pytest.raises(UserError, match='TokenLearner has no attention map from source to query tokens'):
        build_head('TokenLearner').attention_map(tokens(9), tokens(4))


def test_linear_attention_ignores_features_no_key_has():
    head, source, query = build_head('LinearAttention').float(), tokens(9).float(), tokens(4, seed=4).float()
    torch.nn.init.zeros_(head.k.weight)
    head.k.bias.data[0] = -200  # elu + 1 is 0 there, in fp32
    assert head(source, query).isfinite().all()
    merged = head.merge([head.summarize(chunk) for chunk in source.split(4, 1)])
    torch.testing.assert_close(head.update(merged, query), head(source, query))


@pytest.mark.parametrize('name', ATTENTION_HEADS)
def test_doubled_source_changes_nothing(name):
    head, source, query = build_head(name), tokens(9), tokens(4, seed=4)
    # LinearAttention's 1e-6 in the denominator is why this is not exact
    torch.testing.assert_close(head(source.repeat(1, 2, 1), query), head(source, query), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', HEADS)
def test_order_of_the_source(name):
    head, source, query = build_head(name), tokens(9), tokens(4, seed=4)
    same = torch.allclose(head(source.flip(1), query), head(source, query), rtol=1e-10, atol=1e-10)
    assert same == (name != 'DynaMixer')


@pytest.mark.parametrize('name', HEADS)
def test_order_of_the_query(name):
    head, source, query = build_head(name), tokens(9), tokens(4, seed=4)
    updated = head(source, query.flip(1))
    expected = head(source, query)
    # TokenLearner and DynaMixer have an output of their own for each place
    expected = expected.flip(1) if name in ATTENTION_HEADS else expected
    torch.testing.assert_close(updated, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ('name', 'without', 'mean_of'),
    [
        ('LinearAttention', ['k'], lambda h, s, q: h.v(s)),
        ('FocusedLinearAttention', ['k'], lambda h, s, q: h.v(s)),
        ('CrossAttention', ['k_norm'], lambda h, s, q: h.proj(h.v_norm(h.v(s)).mean(1, keepdim=True))),
        ('LatentAttention', ['mlp.fc2'], lambda h, s, q: s),
        ('LatentCrossAttention', ['k_norm'], lambda h, s, q: h.proj(h.v_norm(h.v(s)).mean(1, keepdim=True))),
        ('TokenLearner', ['mlp.fc2'], lambda h, s, q: torch.cat([s, q], 1)),
        ('DynaMixer', ['generate'], lambda h, s, q: h.proj(h.norm(s).mean(1, keepdim=True))),
    ],
)
def test_without_scores_the_update_is_a_mean(name, without, mean_of):
    head, source, query = build_head(name), tokens(9), tokens(4, seed=4)
    for module in without:
        for parameter in head.get_submodule(module).parameters():
            nn.init.zeros_(parameter)
    expected = mean_of(head, source, query).mean(1, keepdim=True).expand(-1, 4, -1)
    torch.testing.assert_close(head(source, query), expected, rtol=1e-5, atol=1e-6)


def test_dyna_mixer_places_what_its_matrix_says():
    head, source = build_head('DynaMixer'), tokens(9)
    nn.init.zeros_(head.generate.weight)
    chosen = [7, 0, 3, 3]
    head.generate.bias.data = 1e3 * nn.functional.one_hot(torch.tensor(chosen), 9).double().flatten()
    torch.testing.assert_close(head(source, tokens(4)), head.proj(head.norm(source)[:, chosen]))


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('LinearAttention', dict(latent_ratio=1)),
        ('FocusedLinearAttention', dict(latent_ratio=1, focusing_factor=1.5)),
        ('CrossAttention', dict()),
        ('LatentAttention', dict(latent_ratio=2, hidden_dims=3)),
        ('LatentCrossAttention', dict(latent_ratio=1)),
        ('TokenLearner', dict()),
        ('DynaMixer', dict()),
    ],
)
def test_head_gradients(name, options):
    head = build_head(name, 3, 2, embed_dims=4, **options)
    _gradcheck(head, tokens(3, 4, batch=1), tokens(2, 4, batch=1, seed=4))


@pytest.mark.parametrize('name', FUSIONS)
def test_fusion_gradients(name):
    _gradcheck(build_fusion(name), tokens(4, batch=1), tokens(4, batch=1, seed=4))


def _gradcheck(part, *inputs):
    names, parameters = zip(*part.named_parameters(), strict=True) if list(part.parameters()) else ((), ())

    def call(first, second, *values):
        return functional_call(part, dict(zip(names, values, strict=True)), (first, second))

    assert torch.autograd.gradcheck(call, [x.detach().requires_grad_() for x in (*inputs, *parameters)])


# Fusions


def test_fusions_agree_where_the_gate_is_0_or_1():
    fusion, target, update = build_fusion('AddEraseFusion'), tokens(4), tokens(4, seed=4)
    fusion.linear.bias.data = torch.tensor([1e3, -1e3, 1e3, -1e3], dtype=torch.float64)
    fused = fusion(target, update)
    assert torch.equal(fused[:, ::2], build_fusion('EraseFusion')(target, update)[:, ::2])
    assert torch.equal(fused[:, 1::2], build_fusion('AddFusion')(target, torch.zeros_like(update))[:, 1::2])


def test_add_erase_has_one_gate_for_each_token():
    fusion, target, update = build_fusion('AddEraseFusion'), tokens(4), tokens(4, seed=4)
    gate = (fusion(target, update) - target) / (update - target)
    assert gate.std(2).max() < 1e-9 < gate.std(1).min()
    expected = torch.sigmoid(update.mean(1) @ fusion.linear.weight.T + fusion.linear.bias)
    torch.testing.assert_close(gate[..., 0], expected)


# Token embeddings


def test_pooled_tokens_are_means_and_learn_a_position():
    embed = randomize(PooledTokens(grid=(2, 3), embed_dims=5))
    pooled, grid = embed(other := torch.randn(2, 5, 4, 9))
    assert grid == (2, 3)
    means = other.reshape(2, 5, 2, 2, 3, 3).mean((3, 5)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(pooled, means + embed.pos_embed)


@torch.no_grad()
def test_cells_of_a_window_are_those_of_the_scene():
    """Also their position embedding, which encodes the row alone."""
    embed = randomize(PooledCells(rows=3, embed_dims=5))
    scene = torch.randn(2, 5, 6, 12)
    whole, grid = embed(scene)
    window, window_grid = embed(scene[..., 4:8])
    assert (grid, window_grid) == ((3, 6), (3, 2))
    torch.testing.assert_close(window.unflatten(1, window_grid), whole.unflatten(1, grid)[:, :, 2:4])
    torch.testing.assert_close(whole[:, 0] - scene[..., :2, :2].mean((2, 3)), embed.pos_embed[:, 0].expand(2, 5))
    assert embed(scene[..., :1])[1] == (3, 1)
    assert embed(torch.randn(1, 5, 9, 8))[1] == (3, 3), 'the nearest to square'


def test_learned_tokens_are_their_position_embedding():
    embed = randomize(LearnedTokens(grid=2, embed_dims=5))
    learned, grid = embed(images(3))
    assert grid == (2, 2) and [name for name, _ in embed.named_parameters()] == ['pos_embed']
    assert torch.equal(learned, embed.pos_embed.repeat(3, 1, 1))


@torch.no_grad()
@pytest.mark.parametrize('height, width', [(16, 16), (24, 40), (9, 17)])
@pytest.mark.parametrize('embeds', ['pooled_process', 'learned_process', 'pooled_memory', 'learned_memory'])
def test_their_grid_is_the_same_for_every_input_size(embeds, height, width):
    fixed = embeds.split('_')[1]
    model = tiny_vittm(embeds=embeds, out_indices=(0, 1), out_stream=('process', 'memory'))
    patch = dict(process=4, memory=8)[fixed]
    sizes = {fixed: {'process': (2, 2), 'memory': (4, 4)}[fixed]}
    other = 'memory' if fixed == 'process' else 'process'
    sizes[other] = (-(-height // patch), -(-width // patch))
    process, memory = model(images(2, height, width))
    assert (process.shape[2:], memory.shape[2:]) == (sizes['process'], sizes['memory'])
    assert process.isfinite().all() and memory.isfinite().all()


@pytest.mark.parametrize('embed', [PooledTokens, LearnedTokens])
def test_their_checkpoints_move_to_another_grid(embed):
    small, large = randomize(embed(grid=2, embed_dims=5)), embed(grid=4, embed_dims=5)
    large.load_state_dict(small.state_dict())
    torch.testing.assert_close(large.pos_embed.mean(1), small.pos_embed.mean(1))


# Memory blocks


def run(block, memory, write=lambda memory: memory):
    return block(write(block.before_write(memory)), skip=memory)


def test_memory_mlp():
    block, memory = build_memory_block('MemoryMLP', mlp_ratio=0.5), tokens(9)
    written = 2 * memory + 1
    normed = (written - written.mean(2, keepdim=True)) / (written.var(2, keepdim=True, correction=0) + 1e-5).sqrt()
    hidden = nn.functional.gelu(block.mlp.fc1(normed * block.norm.weight + block.norm.bias))
    assert hidden.shape[2] == 8
    torch.testing.assert_close(run(block, memory, lambda m: 2 * m + 1), written + block.mlp.fc2(hidden))


def test_memory_convnext_without_its_branches_is_the_skip():
    block, memory = build_memory_block('MemoryConvNeXt'), tokens(9)
    for module in (block.encoder, block.decoder):
        nn.init.zeros_(module.pointwise_conv2.weight)
        nn.init.zeros_(module.pointwise_conv2.bias)
    torch.testing.assert_close(run(block, memory, lambda m: 2 * m), 3 * memory)


def test_memory_convnext_sees_neighbours_alone():
    block, memory = build_memory_block('MemoryConvNeXt', kernel_size=3), tokens(9)
    other = memory.clone()
    other[:, 4] += 1
    differs = (run(block, memory) - run(block, other)).abs().amax((0, 2)) > 1e-9
    # one neighbour in the encoder, one more in the decoder
    assert differs.tolist() == [False, False, True, True, True, True, True, False, False]


# Errors

PATCHES = dict(type='PatchTokens', patch_size=8)


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (dict(rw_head=dict(type='LatentAttention', latent_ratio=3)), 'latent_ratio=3 .* does not divide embed_dims=16'),
        (dict(rw_head=dict(type='LatentAttention', latent_ratio=16)), 'widths of at least 2: choose a smaller ratio'),
        (dict(rw_head=dict(type='LatentCrossAttention', latent_ratio=8)), 'latent_ratio=8 × num_heads=2'),
        (dict(rw_head=dict(type='FocusedLinearAttention', focusing_factor=0.5)), 'of 1 or more, not 0.5'),
        (dict(rw_head=dict(type='LatentAttention', hidden_dims=0)), 'hidden_dims must be a whole number above 0'),
        (
            dict(rw_head=dict(type='CrossAttention', latent_ratio=2)),
            "CrossAttention got an unexpected .* 'latent_ratio'",
        ),
        (
            dict(rw_head=dict(type='DynaMixer', reduced_dims=1.5)),
            'reduced_dims must be a whole number .* not 1.5',
        ),
        (dict(rw_head=dict(type='Attention')), "unknown read/write head 'Attention': choose one of CrossAttention,"),
        (dict(fusion=dict(type='AddEraseFusion', gate=1)), "fusion AddEraseFusion got an unexpected .* 'gate'"),
        (dict(memory_block=dict(type='MemoryMLP', mlp_ratio=0)), 'mlp_ratio must be a number of at least 1/16'),
        (dict(memory_block=dict(type='MemoryConvNeXt', mlp_ratio='4')), "mlp_ratio must be a number .* not '4'"),
        (dict(memory_block=dict(type='MemoryConvNeXt', kernel_size=4)), 'kernel_size must be odd'),
        (dict(memory_block=dict(type='MemoryMLP', mlp_ratio=float('nan'))), 'mlp_ratio must be a number .* not nan'),
        (
            dict(process_embed=dict(type='PooledTokens')),
            "token embedding PooledTokens missing a required argument: 'grid'",
        ),
        (dict(drop_rate='0.1'), "drop_rate must be a number from 0 to below 1, not '0.1'"),
        (dict(process_embed=dict(type='PooledCells', rows=0)), 'rows must be a whole number above 0, not 0'),
        (dict(process_embed=dict(type='LearnedTokens', grid=(2, 0))), 'grid must be a whole number above 0, not 0'),
        (dict(process_embed=dict(type='LearnedTokens', grid=(2, 2, 2))), 'grid must be a whole number or a pair'),
    ],
)
def test_bad_options(options, sentence):
    arch = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32)
    with pytest.raises(UserError, match=sentence):
        ViTTM(arch, img_size=16, **dict(memory_embed=PATCHES, process_embed=PATCHES) | options)


@pytest.mark.parametrize('memory', ['PooledTokens', 'LearnedTokens'])
@pytest.mark.parametrize('process', ['PooledTokens', 'LearnedTokens'])
def test_one_stream_starts_from_the_image(memory, process):
    embeds = dict(memory_embed=dict(type=memory, grid=2), process_embed=dict(type=process, grid=2))
    with pytest.raises(
        UserError, match=f'neither memory_embed {memory} nor process_embed {process} starts from the im'
    ):
        ViTTM('tiny', **embeds)


@torch.no_grad()
@pytest.mark.parametrize(
    ('options', 'size', 'sentence'),
    [
        (
            dict(head='TokenLearner'),
            (24, 24),
            'TokenLearner is built for 4 process and 16 memory tokens, and the image has 9 and 36',
        ),
        (dict(head='TokenLearner', embeds='learned_process'), (24, 24), 'has 4 and 36: give images of 16×16'),
        (dict(head='DynaMixer'), (16, 24), 'DynaMixer is built for 4 process and 16 memory .* has 6 and 24'),
        (
            dict(head='DynaMixer', embeds='pooled_memory'),
            (16, 24),
            'DynaMixer is built for 4 process and 16 memory .* has 6 and 16',
        ),
        (dict(fusion='AddEraseFusion'), (8, 16), 'AddEraseFusion is built .* has 2 and 8'),
        (dict(fusion='AddEraseFusion', embeds='pooled_process'), (8, 16), 'has 4 and 8'),
    ],
)
def test_fixed_token_numbers_refuse_other_input_sizes(options, size, sentence):
    with pytest.raises(UserError, match=sentence):
        tiny_vittm(out_stream='memory', **options)(images(1, *size))


@pytest.mark.parametrize('name', ['LinearAttention', 'FocusedLinearAttention'])
def test_adapters_and_hooks_of_values_act_for_any_number_of_tokens(name):
    """Such as LoRA's, which replaces the layer, and pruning's, which hooks it."""

    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    head, source, query = build_head(name, 500, 4).float(), torch.randn(1, 500, 16), torch.randn(1, 4, 16)
    expected = 2 * head(source, query)
    hook = head.v.register_forward_hook(lambda module, args, output: 2 * output)
    torch.testing.assert_close(head(source, query), expected)
    hook.remove()
    pruned = prune.l1_unstructured(deepcopy(head.v), 'weight', 0.5)
    pruned.weight_orig.data *= 2  # the mask is applied to it again in each call
    kept, head.v = head.v, pruned
    found = head(source, query)
    prune.remove(pruned, 'weight')
    torch.testing.assert_close(found, head(source, query))
    head.v = kept
    head.v.__class__ = Doubled
    torch.testing.assert_close(head(source, query), expected)


def test_adapters_and_hooks_of_patches_act():
    embed = tiny_vittm().memory_embed
    x, projection = images(1, 16, 16), embed.patches.projection
    assert type(projection) is nn.Conv2d, 'the fast path is for this'
    expected = 2 * embed.project(x)[0]
    hook = projection.register_forward_hook(lambda module, args, output: 2 * output)
    torch.testing.assert_close(embed.project(x)[0], expected)
    hook.remove()
    torch.testing.assert_close(2 * embed.project(x)[0], expected)
    projection.__class__ = type('Doubled', (nn.Conv2d,), dict(forward=lambda self, x: 2 * nn.Conv2d.forward(self, x)))
    torch.testing.assert_close(embed.project(x)[0], expected)


def test_ratio_of_focused_attention():
    assert build_head('FocusedLinearAttention').latent_dims == 16


def test_gate_starts_near_one_half():
    gate = build_component(registry.FUSIONS, Fusion, dict(type='AddEraseFusion'), embed_dims=64, target_tokens=64)
    gate.init_weights()
    assert gate.linear.weight.std().item() == pytest.approx(0.02, rel=0.1) and not gate.linear.bias.any()


# Half precision


@torch.no_grad()
@pytest.mark.parametrize('autocast', [True, False], ids=['autocast', 'half_weights'])
@pytest.mark.parametrize('dtype', HALF, ids=str)
@pytest.mark.parametrize(
    ('name', 'source_tokens'), [('LinearAttention', 65536), *((name, 4096) for name in HEADS[1:-1])]
)
def test_heads_over_many_large_tokens(name, source_tokens, dtype, autocast):
    """Activations up to 1e3 in magnitude: sums over the tokens are beyond fp16, the projections within it."""
    head = build_head(name, source_tokens, 4, embed_dims=64).float()
    for parameter in head.parameters():
        if parameter.ndim == 2:
            nn.init.trunc_normal_(parameter, std=0.05)
    generator = torch.Generator().manual_seed(0)
    source, query = (1e3 * (2 * torch.rand(1, n, 64, generator=generator) - 1) for n in (source_tokens, 4))
    # Values with a mean, so that it is the sums that are tested and not what is left after they cancel
    source += 0.5 * 1e3 * torch.linspace(-1, 1, 64)
    source.clamp_(-1e3, 1e3)
    if not autocast:  # the reference gets the rounded weights and tokens
        head, source, query = head.to(dtype), source.to(dtype), query.to(dtype)
    expected = deepcopy(head).double()(source.double(), query.double())
    with torch.autocast('cpu', dtype, enabled=autocast):
        updates = [head(source, query)]
        if name in ATTENTION_HEADS:
            chunks = [head.summarize(chunk) for chunk in source.split(1000, 1)]
            updates.append(head.update(head.merge(chunks), query))
    for update in updates:
        assert update.isfinite().all()
        assert relative_error(update, expected) < {torch.bfloat16: 2e-2, torch.float16: 5e-3}[dtype]


@torch.no_grad()
@pytest.mark.parametrize('dtype', HALF, ids=str)
@pytest.mark.parametrize('memory_block', MEMORY_BLOCKS)
@pytest.mark.parametrize('fusion', FUSIONS)
@pytest.mark.parametrize('head', HEADS)
def test_half_precision_of_the_whole(head, fusion, memory_block, dtype):
    model = tiny_vittm(head, fusion, memory_block, out_stream='concat')
    expected = model(images())[0]
    with torch.autocast('cpu', dtype):
        cast = model(images())[0]
    half = model.to(dtype)(images().to(dtype))[0]
    assert half.dtype == dtype
    for result in (cast, half):
        assert relative_error(result.float(), expected) < {torch.bfloat16: 0.1, torch.float16: 0.02}[dtype]


# A custom head


def test_the_example_of_the_docs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[1] / 'docs' / 'variants.md').read_text(encoding='utf-8')
    files = dict(re.findall(r'```python\n# (\w+\.py)\n(.+?)```', page, flags=re.DOTALL))
    assert files.keys() == {'mean_head.py', 'config.py'}
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding='utf-8')
    monkeypatch.syspath_prepend(tmp_path)

    config = Config.fromfile(tmp_path / 'config.py')
    try:
        model = registry.MODELS.build(config.backbone)
        head = model.layers[0].read_head
        source = tokens(9, model.embed_dims).float()
        expected = head.scale * source.mean(1, keepdim=True).expand(-1, 4, -1)
        torch.testing.assert_close(head(source, tokens(4, model.embed_dims).float()), expected)
        assert model(images(1, 224, 224))[0].isfinite().all()
    finally:
        registry.RW_HEADS.module_dict.pop('MeanHead', None)
