"""A ViTTM small enough to try every combination of components and their names; large models without their weights."""

from functools import partial
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmvittm.apis.config import build_model
from mmvittm.registry import MODELS

ATTENTION_HEADS = (
    'LinearAttention',
    'FocusedLinearAttention',
    'CrossAttention',
    'LatentAttention',
    'LatentCrossAttention',
)
HEADS = (*ATTENTION_HEADS, 'TokenLearner', 'DynaMixer')
FUSIONS = ('AddFusion', 'EraseFusion', 'AddEraseFusion')
MEMORY_BLOCKS = ('MemoryBlock', 'MemoryMLP', 'MemoryConvNeXt')

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)

_MEMORY_PATCHES = dict(type='PatchTokens', patch_size=4)
_PROCESS_PATCHES = dict(type='PatchTokens', patch_size=8)
EMBEDS = dict(
    patches=dict(memory_embed=_MEMORY_PATCHES, process_embed=_PROCESS_PATCHES),
    pooled_process=dict(memory_embed=_MEMORY_PATCHES, process_embed=dict(type='PooledTokens', grid=2)),
    learned_process=dict(memory_embed=_MEMORY_PATCHES, process_embed=dict(type='LearnedTokens', grid=2)),
    pooled_memory=dict(memory_embed=dict(type='PooledTokens', grid=4), process_embed=_PROCESS_PATCHES),
    learned_memory=dict(memory_embed=dict(type='LearnedTokens', grid=4), process_embed=_PROCESS_PATCHES),
)


def tiny_backbone(embeds='patches', **options) -> dict:
    """Config of a ViTTM with 4×4 memory and 2×2 process tokens for images of 16×16."""
    rw_head = dict(type='LinearAttention', latent_ratio=2)
    return dict(type='mmvittm.ViTTM', arch=ARCH, img_size=16, rw_head=rw_head, **EMBEDS[embeds]) | options


def tiny_vittm(head='LinearAttention', fusion='AddFusion', memory_block='MemoryBlock', embeds='patches', **options):
    """The same, built from the names of its components, in eval mode and with every parameter drawn at random."""
    arch = ARCH | dict(num_layers=options.pop('num_layers', 2))
    components = dict(rw_head=dict(type=head), fusion=dict(type=fusion), memory_block=dict(type=memory_block))
    return randomize(MODELS.build(tiny_backbone(embeds, arch=arch, **components, **options))).eval()


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every parameter at random, so that none is 0 or 1 by initialisation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            is_gain = name.endswith('weight') and parameter.ndim == 1
            parameter.normal_(mean=float(is_gain), std=0.3, generator=generator)
    return module


def images(batch: int = 2, height: int = 16, width: int = 16, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def build_on_meta(cfg: Config) -> nn.Module:
    """Build a model in eval mode on the meta device, which computes shapes only and draws no weights."""
    # mmseg's and mmpretrain's stochastic depth reads its rates from a tensor
    with torch.device('meta'), mock.patch('torch.linspace', partial(torch.linspace, device='cpu')):
        return build_model(cfg).eval().to('meta')


@pytest.fixture(autouse=True, scope='module')
def one_thread():
    """Run a module's tests on one thread: at this size threads cost more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
