"""The contract of the backbone: outputs, input sizes, freezing, errors."""

from math import prod

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import ARCH as TINY_ARCH
from helpers.tiny import ATTENTION_HEADS, images, tiny_vittm
from mmengine.analysis import get_model_complexity_info
from torch.autograd.graph import saved_tensors_hooks

from mmvittm.errors import UserError
from mmvittm.models import AddFusion, LinearAttention, MemoryMLP, ViTTM
from mmvittm.models.distance_attention import distance_bias
from mmvittm.models.streams import Streams
from mmvittm.models.token_embeds import PatchTokens, PooledCells, PooledTokens, grid_of, resample_pos_embed
from mmvittm.registry import RW_HEADS

ARCH = TINY_ARCH | dict(num_layers=3)


def build(memory_patch=4, process_patch=8, **options) -> ViTTM:
    torch.manual_seed(0)
    defaults = dict(
        arch=ARCH,
        img_size=32,
        rw_head=dict(type='LinearAttention', latent_ratio=2),
        memory_embed=dict(type='PatchTokens', patch_size=memory_patch),
        process_embed=dict(type='PatchTokens', patch_size=process_patch),
    )
    model = ViTTM(**defaults | options)
    model.init_weights()
    return model.eval()


@pytest.mark.parametrize(
    ('arch', 'dims', 'layers', 'heads'),
    [('tiny', 192, 12, 3), ('small', 384, 12, 6), ('base', 768, 12, 12), ('large', 1024, 24, 16)],
)
def test_named_archs(arch, dims, layers, heads):
    with torch.device('meta'):
        model = ViTTM(arch)
    block = model.layers[0].vit_block
    assert (model.embed_dims, len(model.layers), block.attn.num_heads) == (dims, layers, heads)
    assert block.ffn.feedforward_channels == 4 * dims


def test_outputs_come_in_the_order_of_out_indices():
    image = torch.randn(2, 3, 32, 32)
    streams = ('memory', 'process', 'concat', 'memory')
    several = build(out_indices=(2, 0, -2, 0), out_stream=streams)
    for index, stream, feature in zip((2, 0, 1, 0), streams, several(image), strict=True):
        (alone,) = build(out_indices=index, out_stream=stream)(image)
        assert torch.equal(feature, alone)


@pytest.mark.parametrize(('stream', 'shape'), [('process', (16, 4, 4)), ('memory', (16, 8, 8)), ('concat', (32, 8, 8))])
def test_shape_of_each_stream(stream, shape):
    (feature,) = build(out_stream=stream)(torch.randn(2, 3, 32, 32))
    assert feature.shape == (2, *shape)


def test_memory_blocks_of_single_blocks():
    """An MLP whose output is zero leaves the numbers of a model without it; its place is that in the list."""
    image = torch.randn(2, 3, 32, 32)
    plain = build(out_stream='concat')
    mixed = build(out_stream='concat', memory_block=[None, dict(type='MemoryMLP', mlp_ratio=2), None])
    names = {name for name, _ in mixed.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert {name.partition('.memory_block.')[0] for name in names} == {'layers.1'}
    mixed.load_state_dict(plain.state_dict(), strict=False)
    assert not torch.equal(mixed(image)[0], plain(image)[0])
    torch.nn.init.zeros_(mixed.layers[1].memory_block.mlp.fc2.weight)
    torch.testing.assert_close(mixed(image), plain(image))


def test_concat_is_resized_process_then_memory():
    image = torch.randn(2, 3, 32, 32)
    (concat,), (process,), (memory,) = (build(out_stream=s)(image) for s in ('concat', 'process', 'memory'))
    resized = F.interpolate(process, (8, 8), mode='bilinear', align_corners=False)
    assert torch.equal(concat, torch.cat([resized, memory], 1))


def test_tokens_are_normed_process_and_plain_memory():
    image = torch.randn(2, 3, 32, 32)
    ((process, memory),) = (model := build(out_stream='tokens'))(image)
    process_map, memory_map = build(out_indices=(-1, -1), out_stream=('process', 'memory'))(image)
    assert torch.equal(process, model.process_norm(process_map.flatten(2).transpose(1, 2)))
    assert torch.equal(memory, memory_map.flatten(2).transpose(1, 2))


@pytest.mark.parametrize('head', ATTENTION_HEADS)
@pytest.mark.parametrize('chunk', [1, 5, 100])
def test_memory_in_chunks_gives_the_same(head, chunk):
    """Outputs and gradients, for chunks of one token, of a number that does not divide 16, and of more."""

    def run(memory_chunk):
        options = dict(out_indices=(0, 1), out_stream=('process', 'concat'), memory_chunk=memory_chunk)
        model = tiny_vittm(head, memory_block='MemoryMLP', **options).double()
        outputs = model(images().double())
        sum(output.square().sum() for output in outputs).backward()
        with torch.no_grad():
            torch.testing.assert_close(model(images().double()), tuple(output.detach() for output in outputs))
        return *outputs, *(p.grad for p in model.parameters() if p.grad is not None)

    torch.testing.assert_close(run(chunk), run(None), rtol=1e-8, atol=1e-10)


def test_memory_in_chunks_takes_less_memory():
    """Bytes that autograd keeps for the backward pass."""

    def saved(**options):
        sizes = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: sizes.update({x.data_ptr(): x.nbytes}) or x, lambda x: x
        ):
            model = tiny_vittm(memory_block='MemoryMLP', embeds='pooled_process', out_stream='memory', **options)
            model(images(1, 128, 128))
        return sum(sizes.values())

    assert saved(memory_chunk=64) < saved() / 4


def test_learned_memory_is_not_written_to():
    """Chunks are written in place, and learned tokens are a parameter."""
    model = tiny_vittm(memory_embed=dict(type='LearnedTokens', grid=(4, 4)), memory_chunk=5, out_stream='tokens')
    with torch.no_grad():
        first, second = (model(images(1))[0][1] for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize('options', [{}, dict(memory_chunk=7)])
def test_streams_without_norms(options):
    model = tiny_vittm(stream_norms=False, out_stream='tokens', **options)
    assert not any('read_norm' in name or 'write_norm' in name for name, _ in model.named_parameters())
    process, memory = model.process_embed(images())[0], model.memory_embed(images())[0]
    for layer in model.layers:
        process = layer.vit_block(process + layer.read_head(memory, process))
        memory = memory + layer.write_head(process, memory)
    for ours, expected in zip(model(images())[0], (model.process_norm(process), memory), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def in_regions(model, x, regions, run_block=lambda block, process: block(process)):
    """Outputs for 'tokens', with each read and write computed for one region after the other."""
    (process, memory), grids = model._embed(x)
    process_regions, memory_regions = (
        torch.arange(rows)[:, None] * regions[0] // rows * regions[1] + torch.arange(columns) * regions[1] // columns
        for rows, columns in grids
    )
    inside = [(process_regions.flatten() == index, memory_regions.flatten() == index) for index in range(prod(regions))]

    def write(query):
        update = torch.zeros_like(query)
        for own_process, own_memory in inside:
            update[:, own_memory] = layer.write_head(process[:, own_process], query[:, own_memory])
        return update

    for layer in model.layers:
        process, memory = layer.read_norm(process), layer.read_norm(memory)
        read = torch.zeros_like(process)
        for own_process, own_memory in inside:
            read[:, own_process] = layer.read_head(memory[:, own_memory], process[:, own_process])
        process = layer.write_norm(run_block(layer.vit_block, model.read_fusion(process, read)))
        memory = layer.write(memory, write, model.write_fusion)
    return model.process_norm(process), memory


@pytest.mark.parametrize('head', ['LinearAttention', 'CrossAttention'])
@pytest.mark.parametrize('options', [{}, dict(memory_chunk=12), dict(with_cp=True)])
@pytest.mark.parametrize('global_attention', [True, False])
def test_what_stays_in_its_region(head, options, global_attention):
    image = images(2, 16, 32).double()
    options = options | dict(rw_region=(1, 2), global_attention=global_attention)
    model = tiny_vittm(head, memory_block='MemoryMLP', out_stream='tokens', **options).double()

    def run_block(block, process):
        # the regions of (1, 2) tokens are pairs in row-major order
        return block(process) if global_attention else torch.cat([block(each) for each in process.split(2, 1)], 1)

    expected = in_regions(model, image, (2, 2), run_block)
    for ours, theirs in zip(model(image)[0], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)
    loss = sum(tokens.square().sum() for tokens in model(image)[0])
    loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize('options', [{}, dict(memory_chunk=12), dict(with_cp=True), dict(rw_region=(1, 2))])
def test_attention_fades_with_distance(options):
    slopes, image = (1.5, 0.25), images(2, 16, 32).double()
    model = tiny_vittm(alibi_slopes=slopes, memory_block='MemoryMLP', out_stream='tokens', **options).double()
    row, column = torch.arange(2.0).double(), torch.arange(4.0).double()
    rows, columns = (places.flatten() for places in torch.meshgrid(row, column, indexing='ij'))
    distance = torch.hypot(rows[:, None] - rows, columns[:, None] - columns)

    def run_block(block, process):
        """mmpretrain's ViT block, one head after the other."""
        heads = []
        qkv = block.attn.qkv(block.ln1(process)).unflatten(2, (3, 2, 8))
        for slope, (q, k, v) in zip(slopes, qkv.permute(3, 2, 0, 1, 4), strict=True):
            heads.append((q @ k.mT / 8**0.5 - slope * distance).softmax(-1) @ v)
        process = process + block.attn.proj(torch.cat(heads, -1))
        return block.ffn(block.ln2(process), identity=process)

    expected = in_regions(model, image, (2, 2) if 'rw_region' in options else (1, 1), run_block)
    for ours, theirs in zip(model(image)[0], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)
    sum(tokens.square().sum() for tokens in model(image)[0]).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_distances_within_a_region():
    options = dict(rw_region=(1, 2), global_attention=False, alibi_slopes=(1.5, 0.25))
    expected = torch.tensor([0.0, 1.0, 1.0, 0.0]).reshape(2, 2) * -torch.tensor([1.5, 0.25])[:, None, None]
    torch.testing.assert_close(tiny_vittm(**options).attention_bias((2, 4), (2, 2)), expected)


@pytest.mark.parametrize(
    'options',
    [{}, dict(layer_scale_init_value=0.5), dict(qkv_bias=False), dict(drop_rate=0.3, drop_path_rate=0.5)],
    ids=str,
)
def test_slopes_of_zero_change_nothing(options):
    outputs = []
    for slopes in (None, (0.0, 0.0)):
        model = tiny_vittm(alibi_slopes=slopes, out_indices=(0, 1), out_stream='concat', **options).train()
        torch.manual_seed(0)
        outputs.append(model(images()))
    torch.testing.assert_close(*outputs)


def test_maps_of_regions_are_in_order():
    image = images(1, 16, 32)
    options = dict(rw_region=(1, 2), out_indices=(1, 1))
    process, memory = tiny_vittm(out_stream=('process', 'concat'), **options)(image)
    ((_, tokens),) = tiny_vittm(out_stream='tokens', rw_region=(1, 2))(image)
    assert torch.equal(memory[:, 16:], tokens.transpose(1, 2).unflatten(2, (4, 8)))
    assert process.shape == (1, 16, 2, 4)


def test_one_region_is_the_whole_image():
    options = dict(out_indices=(0, 1), out_stream='concat')
    assert torch.equal(tiny_vittm(rw_region=(2, 2), **options)(images())[1], tiny_vittm(**options)(images())[1])


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (dict(rw_region=(1, 0)), r'rw_region must be a whole number above 0, not 0'),
        (dict(global_attention=False), 'global_attention=False keeps attention within regions, but rw_region is None'),
        (dict(rw_region=(1, 1), head='TokenLearner'), 'rw_region does not work with TokenLearner'),
        (dict(rw_region=(1, 1), fusion='AddEraseFusion'), 'rw_region does not work with AddEraseFusion'),
        (dict(rw_region=(2, 3)), 'regions of 2×3 process tokens do not divide grids of 2×2 process and 4×4 memory'),
    ],
)
def test_regions_that_cannot_be(options, sentence):
    with pytest.raises(UserError, match=sentence):
        tiny_vittm(**options)(images())


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (dict(memory_chunk=0), 'memory_chunk must be a whole number above 0, not 0'),
        (dict(memory_chunk=4, head='TokenLearner'), 'does not work with TokenLearner'),
        (dict(memory_chunk=4, fusion='AddEraseFusion'), 'does not work with AddEraseFusion'),
        (dict(memory_chunk=4, memory_block='MemoryConvNeXt'), 'does not work with MemoryConvNeXt'),
        (dict(memory_chunk=4, rw_drop_path_rate=0.1), 'set rw_drop_path_rate=0'),
    ],
)
def test_components_that_chunks_would_change(options, sentence):
    with pytest.raises(UserError, match=sentence):
        tiny_vittm(**options)


@pytest.mark.parametrize(
    ('key', 'base'), [('rw_head', LinearAttention), ('fusion', AddFusion), ('memory_block', MemoryMLP)]
)
def test_a_component_of_ones_own_may_mix_tokens_unless_it_says_so(key, base):
    silent = type('Silent', (base,), {})
    with pytest.raises(UserError, match='does not work with Silent, which may mix the memory tokens'):
        build(memory_chunk=4, **{key: dict(type=silent)})
    build(memory_chunk=4, **{key: dict(type=type('Loud', (base,), dict(per_token=True)))})


@pytest.mark.parametrize(
    ('image', 'given'),
    [
        (torch.zeros(3, 16, 16), r'torch.float32 of shape \(3, 16, 16\)'),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), 'torch.uint8'),
    ],
)
def test_what_is_no_batch_of_images(image, given):
    with pytest.raises(UserError, match=r'images are floating-point numbers of shape \(B, C, H, W\), not ' + given):
        build()(image)


def test_positions_before_init_weights():
    """They are drawn, and the random numbers drawn next do not depend on them."""
    torch.manual_seed(0)
    embed = PooledTokens(grid=4, embed_dims=8)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert embed.pos_embed.std() > 0.01 and torch.equal(torch.rand(1), drawn)


def test_positions_and_patches_are_drawn_apart():
    embed = PatchTokens(patch_size=8, in_channels=3, embed_dims=64, img_size=(64, 64))
    positions, weights = embed.pos_embed.flatten(), embed.patches.projection.weight.flatten()
    drawn = torch.stack([positions, weights[: len(positions)]])
    assert torch.corrcoef(drawn)[0, 1].abs() < 0.2  # 4,096 numbers


def test_pretrained_positions_of_an_embedding(tmp_path):
    class Pretrained(PooledTokens):
        def __init__(self, checkpoint):
            super().__init__(grid=4, embed_dims=8)
            self.init_cfg = dict(type='Pretrained', checkpoint=str(checkpoint))

    stored = PooledTokens(grid=4, embed_dims=8)
    torch.save(stored.state_dict(), tmp_path / 'embed.pth')
    embed = Pretrained(tmp_path / 'embed.pth')
    embed.init_weights()
    assert torch.equal(embed.pos_embed, stored.pos_embed)


@pytest.mark.parametrize('size', [(32, 32), (33, 47), (8, 8), (40, 24)])
def test_images_are_padded_at_the_bottom_and_right(size):
    model = build(out_stream='process')
    image = torch.randn(1, 3, *size)
    padded = F.pad(image, (0, -size[1] % 8, 0, -size[0] % 8))
    # the memory patch of 4 would stop short of the process patch's padding
    model_equal = build(memory_patch=8, process_patch=8)
    assert torch.equal(model_equal(image)[0], model_equal(padded)[0])
    assert model(image)[0].shape[2:] == (-(-size[0] // 8), -(-size[1] // 8))


def test_pos_embed_is_resampled_antialiased_in_fp32():
    pos_embed = torch.randn(1, 16, 5, dtype=torch.bfloat16)
    grid = pos_embed.float().reshape(1, 4, 4, 5).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, (3, 6), mode='bicubic', align_corners=False, antialias=True)
    actual = resample_pos_embed(pos_embed, (4, 4), (3, 6))
    assert actual.dtype == torch.bfloat16
    assert torch.equal(actual, expected.permute(0, 2, 3, 1).reshape(1, 18, 5).bfloat16())


@pytest.mark.parametrize(
    ('tokens', 'like', 'grid'),
    [(12, (3, 4), (3, 4)), (16, (3, 4), (4, 4)), (48, (3, 4), (6, 8)), (27, (6, 18), (3, 9)), (2, (2, 4), (1, 2))],
)
def test_grid_of_a_stored_embedding(tokens, like, grid):
    assert grid_of(tokens, like) == grid


def test_grid_of_no_known_aspect_ratio():
    with pytest.raises(UserError, match='7 tokens is neither square nor of the aspect ratio 3×4'):
        grid_of(7, (3, 4))


def test_checkpoint_of_another_img_size_is_resampled(monkeypatch):
    said = []
    monkeypatch.setattr('mmvittm.models.token_embeds.print_log', lambda message, **_: said.append(message))
    source, target = build(img_size=32), build(img_size=(24, 48))
    weights = {key: value.clone() for key, value in source.state_dict().items()}
    target.load_state_dict(weights)
    assert torch.equal(
        target.process_embed.pos_embed, resample_pos_embed(weights['process_embed.pos_embed'], (4, 4), (3, 6))
    )
    assert weights['process_embed.pos_embed'].shape == (1, 16, 16), "the caller's weights were changed"
    image = torch.randn(1, 3, 24, 48)
    torch.testing.assert_close(target(image), source(image))
    assert 'process_embed.pos_embed resampled from 4×4 to 3×6' in said


def test_an_ambiguous_length_is_a_square_with_a_warning(monkeypatch):
    said = []
    monkeypatch.setattr('mmvittm.models.token_embeds.print_log', lambda message, level, **_: said.append(message))
    assert grid_of(576, (36, 64)) == (24, 24)
    assert '576 tokens may be 24×24 or 18×32, and is read as 24×24' in said[0]
    assert grid_of(576, (12, 12)) == (24, 24) and len(said) == 1


def test_rows_of_cells_are_resampled_along_the_rows():
    source, target = (PooledCells(rows, embed_dims=2) for rows in (16, 8))
    ramp = torch.arange(16.0).reshape(1, 16, 1).expand(1, 16, 2)
    source.load_state_dict(dict(pos_embed=ramp))
    target.load_state_dict(source.state_dict())
    torch.testing.assert_close(target.pos_embed[0, 1:-1, 0], torch.arange(2.5, 14, 2), rtol=0, atol=0.1)


@pytest.mark.filterwarnings('ignore')  # of the tracer
def test_multiply_adds_of_a_model_with_cells():
    cells, pooled = (
        build(process_embed=cfg) for cfg in (dict(type='PooledCells', rows=4), dict(type='PooledTokens', grid=4))
    )
    counts = [
        get_model_complexity_info(model, (3, 32, 32), show_table=False, show_arch=False) for model in (cells, pooled)
    ]
    assert counts[0]['flops'] == counts[1]['flops'] > 0


def test_cells_with_a_fusion_of_fixed_tokens():
    cells = dict(process_embed=dict(type='PooledCells', rows=4), fusion=dict(type='AddEraseFusion'))
    model = build(**cells)
    assert model(torch.randn(1, 3, 32, 32))[0].shape == (1, 16, 4, 4)
    with pytest.raises(UserError, match='built for 16 process and 64 memory tokens, and the image has 32 and 128'):
        model(torch.randn(1, 3, 32, 64))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_distances_do_not_overflow_in_half_precision(dtype):
    options = dict(grid=(1, 300), regions=(1, 1), slopes=(0.0, 0.5))
    expected = distance_bias(**options, like=torch.zeros(1))
    assert torch.equal(distance_bias(**options, like=torch.zeros(1, dtype=dtype)), expected.to(dtype))


@pytest.mark.parametrize('memory_chunk', [None, 4])
def test_checkpointing_holds_less(memory_chunk):
    def saved(**options):
        numbers = []
        model = tiny_vittm(out_stream='tokens', memory_chunk=memory_chunk, **options).train()
        with saved_tensors_hooks(lambda tensor: numbers.append(tensor.numel()) or tensor, lambda tensor: tensor):
            (tokens,) = model(images())
        sum(stream.square().sum() for stream in tokens).backward()
        return sum(numbers), [parameter.grad.clone() for parameter in model.parameters()]

    (kept, expected), (recomputed, gradients) = saved(), saved(with_cp=True)
    assert recomputed < 0.9 * kept
    torch.testing.assert_close(gradients, expected)


def test_weights_fit_every_choice_of_outputs():
    weights = build().state_dict()
    for options in (dict(out_indices=0), dict(out_indices=(0, 1), out_stream='concat'), dict(frozen_stages=2)):
        build(**options).load_state_dict(weights)


def test_train_and_eval_return_the_model():
    model = build()
    assert model.train() is model
    assert model.eval() is model


def test_frozen_stages_stay_in_eval_mode():
    model = build(frozen_stages=2, drop_rate=0.5, drop_path_rate=0.5, rw_drop_path_rate=0.5).train()
    frozen = [model.memory_embed, model.process_embed, model.drop_after_pos, *model.layers[:2]]
    assert not any(p.requires_grad for module in frozen for p in module.parameters())
    assert not any(module.training for module in frozen)
    assert model.layers[2].training
    assert model.layers[2].vit_block.attn.qkv.weight.requires_grad


def test_a_frozen_backbone_has_nothing_to_train():
    options = dict(out_stream='tokens', fusion=dict(type='AddEraseFusion'))
    assert not any(p.requires_grad for p in build(frozen_stages=3, **options).parameters())
    parameters = build(frozen_stages=2, **options).named_parameters()
    trained = {name.split('.')[0] for name, p in parameters if p.requires_grad}
    assert trained == {'layers', 'read_fusion', 'write_fusion', 'process_norm'}


def test_drop_path_rates():
    model = build(drop_path_rate=0.2, rw_drop_path_rate=0.3)
    assert [layer.vit_block.attn.out_drop.drop_prob for layer in model.layers] == pytest.approx([0, 0.1, 0.2])
    assert [layer.drop_path.drop_prob for layer in model.layers] == [0.3] * 3


@pytest.mark.parametrize('slopes', [None, (1.0, 0.5)])
def test_drop_rate(slopes):
    model = tiny_vittm(drop_rate=0.1, alibi_slopes=slopes)
    assert model.drop_after_pos.p == 0.1
    for layer in model.layers:
        assert layer.vit_block.attn.proj_drop.p == 0.1
        assert {m.p for m in layer.vit_block.ffn.modules() if isinstance(m, torch.nn.Dropout)} == {0.1}


def test_reads_and_writes_are_dropped_image_by_image():
    model, seen = tiny_vittm(num_layers=1, rw_drop_path_rate=0.5, out_stream='tokens').train(), {}
    layer = model.layers[0]
    layer.vit_block.register_forward_pre_hook(lambda module, args: seen.update(read=args[0]))
    layer.memory_block.register_forward_hook(lambda module, args, output: seen.update(write=output))
    torch.manual_seed(0)
    streams = Streams(*model._embed(images(32))[0])
    process, _ = layer(streams, model.read_fusion, model.write_fusion)
    before, skip = layer.read_norm(streams.process), layer.read_norm(streams.memory)
    for got, full in (
        (seen['read'] - before, layer.read_head(skip, before)),
        (seen['write'] - layer.write_norm(skip), layer.write_head(process, layer.write_norm(skip))),
    ):
        shares = ((got * full).sum((1, 2)) / full.square().sum((1, 2))).round(decimals=3)
        assert set(shares.tolist()) == {0.0, 2.0}


def test_initialisation_is_reproducible_with_std_0_02():
    model = build(arch='tiny', img_size=224, memory_patch=16, process_patch=32)
    again = build(arch='tiny', img_size=224, memory_patch=16, process_patch=32)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    for weight in (model.memory_embed.pos_embed, model.layers[3].read_head.v.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize('head', sorted(RW_HEADS.module_dict))
def test_initialisation_of_heads_can_be_chosen(head):
    rw_head = dict(type=head, init_cfg=dict(type='Constant', layer='Linear', val=0.25))
    layer = build(rw_head=rw_head).layers[0]
    for part in (layer.read_head, layer.write_head):
        linears = [module for module in part.modules() if isinstance(module, torch.nn.Linear)]
        assert linears
        assert all((linear.weight == 0.25).all() for linear in linears)


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (dict(arch='huge'), "unknown arch 'huge': choose one of tiny, small, base, large"),
        (dict(arch=dict(embed_dims=16)), 'a custom arch is a dict of exactly embed_dims, num_layers'),
        (dict(arch=ARCH | dict(num_layers=0)), 'num_layers must be a whole number above 0, not 0'),
        (dict(arch=ARCH | dict(num_heads=3)), 'num_heads=3 does not divide embed_dims=16'),
        (dict(rw_head=dict(type='LinearAttention', latent_ratio=3)), 'latent_ratio=3 × num_heads=2 does not divide'),
        (dict(rw_head=dict(type='Attention')), "unknown read/write head 'Attention': choose one of .*LinearAttention"),
        (
            dict(rw_head=dict(type='LinearAttention', ratio=2)),
            "LinearAttention got an unexpected .*'ratio': its options are embed_dims",
        ),
        (dict(rw_head='LinearAttention'), 'a read/write head is configured by a dict with a "type"'),
        (dict(fusion=dict(type=torch.nn.Identity)), 'fusion Identity must derive from mmvittm.models.fusions.Fusion'),
        (dict(fusion=dict(type='MulFusion')), "unknown fusion 'MulFusion': choose one of .*AddFusion"),
        (dict(memory_block=dict(type='Attention')), "unknown memory block 'Attention'"),
        (dict(memory_block=[None]), 'memory_block lists 1 memory blocks for 3 blocks'),
        (dict(memory_block=[None, None, dict(type='MLP')]), "unknown memory block 'MLP'"),
        (dict(out_stream=None), 'out_stream must be one or several of process, memory, concat, tokens, not None'),
        (dict(out_stream=[['memory']]), r"unknown out_stream \['memory'\]: choose one of"),
        (dict(out_stream='latent'), "unknown out_stream 'latent': choose one of process, memory, concat"),
        (dict(out_stream=('process', 'memory')), 'out_stream names 2 streams for 1 out_indices'),
        (dict(out_indices=3), r'out index 3 does not exist: the blocks are 0 … 2'),
        (dict(out_indices=(0, -4)), 'out index -4 does not exist'),
        (dict(out_indices=()), 'out_indices is empty'),
        (dict(out_indices='last'), "out_indices must be whole numbers, not 'last'"),
        (dict(out_indices=(0, 'a')), 'out_indices must be whole numbers'),
        (dict(frozen_stages=4), 'frozen_stages=4 is not a whole number within -1 … 3'),
        (dict(frozen_stages='1'), "frozen_stages='1' is not a whole number"),
        (dict(frozen_stages=True), 'frozen_stages=True is not a whole number'),
        (dict(out_indices=True), 'out_indices must be whole numbers, not True'),
        (dict(layer_scale_init_value=-1.0), 'layer_scale_init_value must be a number of 0 or more, not -1.0'),
        (dict(layer_scale_init_value='a'), "layer_scale_init_value must be a number of 0 or more, not 'a'"),
        (dict(norm_cfg=None), r"norm_cfg must be a dict such as dict\(type='LN'\), not None; stream_norms=False"),
        (dict(norm_cfg='LN'), "norm_cfg must be a dict .* not 'LN'"),
        (dict(drop_path_rate=1.0), 'drop_path_rate must be a number from 0 to below 1, not 1.0'),
        (dict(drop_path_rate='0.1'), "drop_path_rate must be a number from 0 to below 1, not '0.1'"),
        (dict(rw_drop_path_rate=-0.5), 'rw_drop_path_rate must be a number from 0 to below 1, not -0.5'),
        (dict(in_channels=0), 'in_channels must be a whole number above 0, not 0'),
        (dict(arch=ARCH | dict(num_heads=3), rw_head=dict(type='LatentAttention')), 'num_heads=3 does not divide'),
        (dict(alibi_slopes=(1.0,)), 'alibi_slopes must be 2 numbers of 0 or more, one for each head, not'),
        (dict(alibi_slopes=2.0), 'alibi_slopes must be 2 numbers of 0 or more, one for each head, not 2.0'),
        (dict(alibi_slopes=(1.0, -1.0)), 'alibi_slopes must be 2 numbers of 0 or more'),
        (dict(alibi_slopes=(1.0, float('nan'))), 'alibi_slopes must be 2 numbers of 0 or more'),
        (dict(img_size=(32, 32, 32)), 'img_size must be a whole number or a pair'),
        (dict(img_size=-1), 'img_size must be a whole number above 0'),
        (dict(memory_patch=0), 'patch_size must be a whole number above 0, not 0'),
        (dict(process_patch=(8, -8)), 'patch_size must be a whole number above 0, not -8'),
        (dict(process_patch=33), 'patch_size 33×33 is larger than img_size 32×32'),
    ],
)
def test_bad_arguments(options, sentence):
    with pytest.raises(UserError, match=sentence):
        build(**options)


def test_image_of_other_channels():
    with pytest.raises(
        UserError, match=r'the image has 4 channels in its shape .*, and in_channels is 3: set in_channels'
    ):
        build()(torch.randn(1, 4, 32, 32))


def test_image_smaller_than_a_patch():
    with pytest.raises(UserError, match='an image of 6×32 pixels is smaller than a patch of 8×8'):
        build()(torch.randn(1, 3, 6, 32))
