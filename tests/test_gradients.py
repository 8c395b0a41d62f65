"""Gradients of combinations of components; compiling, exporting and checkpointing keep the numbers."""

import re
from itertools import cycle, product
from math import isfinite

import pytest
import torch
from helpers.golden import relative_error
from helpers.tiny import EMBEDS, FUSIONS, HEADS, MEMORY_BLOCKS, images, one_thread, tiny_vittm  # noqa: F401
from mmengine.utils import digit_version
from torch import nn

from mmvittm.models import DynaMixer, EraseFusion
from mmvittm.models.rw_heads import RWHead

OUTPUTS = dict(
    process=dict(out_stream='process'),
    memory=dict(out_stream='memory'),
    concat=dict(out_stream='concat'),
    mixed=dict(out_stream=('memory', 'process'), out_indices=(0, 1)),
)
# Parameters that shift all logits of a softmax equally: the authors' checkpoints hold them, their gradient is zero.
SHIFT_INVARIANT = dict(
    CrossAttention='k_norm.bias',
    LatentAttention='mlp.fc2.bias',
    LatentCrossAttention='k_norm.bias',
    TokenLearner='mlp.fc2.bias',
)
# One model per head; together they hold every other component.
SAMPLES = list(zip(HEADS, cycle(FUSIONS), cycle(reversed(MEMORY_BLOCKS)), cycle(EMBEDS), strict=False))


def weighted_sum(maps):
    """Loss that weights every value of every map differently."""
    generator = torch.Generator().manual_seed(2)
    return sum((m * torch.randn(m.shape, generator=generator)).sum() for m in maps)


def heads_of(model):
    """Read and write heads by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, RWHead)}


def sharpen(model):
    """Sharpen the attention: if nearly uniform, EraseFusion leaves equal tokens after two blocks, and no gradient."""
    for head in heads_of(model).values():
        for name, module in head.named_modules():
            if isinstance(module, nn.Linear):
                module.weight.data *= 2 if 'mlp' in name else 3
            elif name in ('q_norm', 'k_norm'):
                module.weight.data *= 4
    return model


def shift_invariant(model):
    """Names of the parameters whose gradient is zero."""
    names = {prefix: SHIFT_INVARIANT.get(type(head).__name__) for prefix, head in heads_of(model).items()}
    return {f'{prefix}.{name}' for prefix, name in names.items() if name}


def unread(model):
    """Names of the parameters that DynaMixer and EraseFusion together ignore: neither reads the old tokens."""
    if (type(model.layers[0].read_head), type(model.read_fusion)) != (DynaMixer, EraseFusion):
        return set()
    unread = 'memory_block.encoder' if model.memory_embed.from_other_stream else 'memory_block.encoder|process_embed'
    return {name for name, p in model.named_parameters() if p.requires_grad and re.search(unread, name)}


def check_trained_is_what_outputs_reach(model):
    model = sharpen(model).double()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    unseen = unread(model)
    model.requires_grad_(True)

    parameters = dict(model.named_parameters())
    loss = weighted_sum(model(images().double()))
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    largest = {name: g.abs().max().item() for name, g in zip(parameters, gradients, strict=True) if g is not None}

    assert largest.keys() == trained - unseen
    assert all(isfinite(value) for value in largest.values())
    negligible = {name for name, value in largest.items() if value < 1e-13 * max(largest.values())}
    assert negligible == shift_invariant(model) & trained


# Two choices decide which parameters get a gradient: that of head, fusion and embeddings, and that of output, memory
# block and embeddings. Each is tested in full, while the remaining components take turns.
BY_HEAD = [
    (head, fusion, memory_block, embeds, output)
    for (head, fusion, embeds), memory_block, output in zip(
        product(HEADS, FUSIONS, EMBEDS), cycle(MEMORY_BLOCKS), cycle(OUTPUTS), strict=False
    )
]
BY_OUTPUT = [
    (head, fusion, memory_block, embeds, output)
    for (output, memory_block, embeds), head, fusion in zip(
        product(OUTPUTS, MEMORY_BLOCKS, EMBEDS), cycle(HEADS), cycle(FUSIONS), strict=False
    )
]


@pytest.mark.parametrize(('head', 'fusion', 'memory_block', 'embeds', 'output'), dict.fromkeys(BY_HEAD + BY_OUTPUT))
def test_trained_is_what_the_outputs_reach(head, fusion, memory_block, embeds, output):
    check_trained_is_what_outputs_reach(tiny_vittm(head, fusion, memory_block, embeds, **OUTPUTS[output]))


@pytest.mark.parametrize('fusion', FUSIONS)
@pytest.mark.parametrize('head', HEADS)
def test_nothing_behind_the_last_output_trains(head, fusion):
    check_trained_is_what_outputs_reach(tiny_vittm(head, fusion, 'MemoryConvNeXt', out_indices=0))


@pytest.mark.parametrize(('head', 'fusion', 'memory_block', 'embeds'), SAMPLES)
def test_checkpointing_keeps_gradients(head, fusion, memory_block, embeds):
    """Also with dropout and stochastic depth, which draw random numbers twice then."""

    def gradients(with_cp):
        rates = dict(drop_rate=0.2, drop_path_rate=0.2, rw_drop_path_rate=0.2)
        model = tiny_vittm(head, fusion, memory_block, embeds, with_cp=with_cp, **rates).train()
        torch.manual_seed(0)
        weighted_sum(model(images())).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    kept, recomputed = gradients(False), gradients(True)
    for name, gradient in kept.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-6, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize('head', HEADS)
def test_an_image_does_not_depend_on_its_batch(head):
    model = tiny_vittm(head, 'AddEraseFusion', 'MemoryConvNeXt', out_stream='concat')
    batch = images(8)
    assert relative_error(model(batch[3:4])[0], model(batch)[0][3:4]) < 1e-6


@torch.no_grad()
@pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version('2.6'), reason="torch 2.1 cannot trace mmcv's FFN as one graph"
)
@pytest.mark.parametrize(('head', 'fusion', 'memory_block', 'embeds'), SAMPLES)
def test_compiled_and_exported_as_one_graph(head, fusion, memory_block, embeds):
    # aot_eager traces as inductor does, and needs no compiler
    model = tiny_vittm(head, fusion, memory_block, embeds, num_layers=1, out_stream='concat')
    eager = model(images())[0]
    exported = torch.export.export(model, (images(),)).module()
    assert relative_error(exported(images())[0], eager) < 1e-5
    torch._dynamo.reset()
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    assert relative_error(compiled(images())[0], eager) < 1e-5


def test_samples_hold_every_component():
    heads, fusions, memory_blocks, embeds = map(set, zip(*SAMPLES, strict=True))
    assert (heads, fusions, memory_blocks, embeds) == (set(HEADS), set(FUSIONS), set(MEMORY_BLOCKS), set(EMBEDS))
