"""A ViTTM small enough to try every combination of parts, and its parts by name."""

import pytest
import torch
from torch import nn

from mmvittm.models import ViTTM

HEADS = ('LinearAttention', 'CrossAttention', 'LatentAttention', 'LatentCrossAttention', 'TokenLearner', 'DynaMixer')
FUSIONS = ('AddFusion', 'EraseFusion', 'AddEraseFusion')
MEMORY_BLOCKS = ('MemoryBlock', 'MemoryMLP', 'MemoryConvNeXt')

_MEMORY_PATCHES = dict(type='PatchTokens', patch_size=4)
_PROCESS_PATCHES = dict(type='PatchTokens', patch_size=8)
EMBEDS = dict(
    patches=dict(memory_embed=_MEMORY_PATCHES, process_embed=_PROCESS_PATCHES),
    pooled_process=dict(memory_embed=_MEMORY_PATCHES, process_embed=dict(type='PooledTokens', grid=2)),
    learned_process=dict(memory_embed=_MEMORY_PATCHES, process_embed=dict(type='LearnedTokens', grid=2)),
    pooled_memory=dict(memory_embed=dict(type='PooledTokens', grid=4), process_embed=_PROCESS_PATCHES),
    learned_memory=dict(memory_embed=dict(type='LearnedTokens', grid=4), process_embed=_PROCESS_PATCHES),
)


def tiny_vittm(head='LinearAttention', fusion='AddFusion', memory_block='MemoryBlock', embeds='patches', **options):
    """A ViTTM of 4×4 memory and 2×2 process tokens for images of 16×16, in eval mode, its weights drawn anew."""
    model = ViTTM(
        arch=dict(embed_dims=16, num_layers=options.pop('num_layers', 2), num_heads=2, feedforward_channels=32),
        img_size=16,
        rw_head=dict(type=head),
        fusion=dict(type=fusion),
        memory_block=dict(type=memory_block),
        **EMBEDS[embeds],
        **options,
    )
    return randomize(model).eval()


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every parameter, so that none is 0 or 1 by its initialisation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            is_gain = name.endswith('weight') and parameter.ndim == 1
            parameter.normal_(mean=float(is_gain), std=0.3, generator=generator)
    return module


def images(batch: int = 2, height: int = 16, width: int = 16, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True, scope='module')
def one_thread():
    """For the modules that import it: threads cost more than they give at this size, seconds on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
