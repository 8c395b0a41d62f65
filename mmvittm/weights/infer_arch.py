"""Inferring a model's config from the shapes of its weights."""

import re
from collections.abc import Callable, Mapping
from math import isqrt

from torch import Tensor

from ..errors import UserError
from ..models import ViTTM

_CHANNELS_PER_HEAD = 64  # of every published ViT and ViTTM


class WeightShapes:
    """The shapes of weights by key.

    Args:
        weights (Mapping[str, Tensor]): Weights.
        name_of (Callable[[str], str | None]): Name of a key in errors.
    """

    def __init__(self, weights: Mapping[str, Tensor], name_of: Callable[[str], str | None] = str) -> None:
        self._shapes = {key: tuple(value.shape) for key, value in weights.items()}
        self._name_of = name_of

    def __contains__(self, key: str) -> bool:
        return key in self._shapes

    def of(self, key: str, ndim: int) -> tuple[int, ...]:
        """Return the shape of a weight.

        Raises:
            UserError: If the weight is missing or does not have ``ndim`` dimensions.
        """
        shape = self._shapes.get(key)
        if shape is None:
            raise UserError(f'these are not the weights of a whole model: {self._name_of(key)} is missing')
        if len(shape) != ndim:
            raise UserError(f'{self._name_of(key)} has the shape {shape} where {ndim} dimensions are expected')
        return shape

    def num_layers(self) -> int:
        """Count the layers, from keys ``layers.i.…`` or ``backbone.layers.i.…``."""
        return len({match[1] for key in self._shapes if (match := re.match(r'(?:backbone\.)?layers\.(\d+)\.', key))})


def infer_arch(
    state_dict: Mapping[str, Tensor],
    num_heads: int | None = None,
    fusion: str = 'AddFusion',
    img_size: int | tuple[int, int] | None = None,
    name_of: Callable[[str], str | None] = str,
) -> dict:
    """Infer the config of a ViTTM from the shapes of its weights, for the modules that the authors' model has.

    Args:
        state_dict (Mapping[str, Tensor]): Weights with keys ``backbone.…`` and, of a classifier, ``head.…``.
        num_heads (int, optional): See :func:`mmvittm.weights.infer_authors_arch`.
        fusion (str): Likewise.
        img_size (int | tuple[int, int], optional): Likewise.
        name_of (Callable[[str], str | None]): Name of a key in errors.

    Returns:
        dict: ``backbone`` and ``num_classes``.

    Raises:
        UserError: If weights are missing, or the shapes are not those of such a model.
    """
    shapes = WeightShapes(state_dict, name_of)
    patches: dict[str, tuple[int, int]] = {}
    tokens: dict[str, int] = {}
    for embed in ('memory_embed', 'process_embed'):
        _, _, *patch = shapes.of(f'backbone.{embed}.patches.projection.weight', 4)
        patches[embed] = patch[0], patch[1]
        tokens[embed] = shapes.of(f'backbone.{embed}.pos_embed', 3)[1]
    vit = vit_options(shapes, 'backbone.memory_embed.patches', 'backbone.layers.0.vit_block', num_heads)
    width = shapes.of('backbone.memory_embed.pos_embed', 3)[2]
    gated = 'backbone.read_fusion.linear.weight' in shapes
    backbone = dict(
        type='mmvittm.ViTTM',
        arch=vit.pop('arch'),
        img_size=_short(_checked_img_size(patches, tokens, img_size)),
        memory_embed=dict(type='PatchTokens', patch_size=_short(patches['memory_embed'])),
        process_embed=dict(type='PatchTokens', patch_size=_short(patches['process_embed'])),
        rw_head=_rw_head(shapes, width),
        fusion=dict(type='AddEraseFusion' if gated else fusion),
    )
    memory_blocks = [_memory_block(shapes, layer, width) for layer in range(shapes.num_layers())]
    if any(memory_blocks):
        backbone['memory_block'] = (
            memory_blocks[0] if all(cfg == memory_blocks[0] for cfg in memory_blocks) else memory_blocks
        )
    head = 'head.memory_fc.weight'
    return dict(backbone=backbone | vit, num_classes=shapes.of(head, 2)[0] if head in shapes else None)


def vit_options(shapes: WeightShapes, patches: str, block: str, num_heads: int | None) -> dict:
    """Infer the options that a ViTTM has in common with a ViT; options at their defaults are left out.

    Args:
        shapes (WeightShapes): Shapes of the model's weights.
        patches (str): Key prefix of a patch embedding.
        block (str): Key prefix of the first ViT block.
        num_heads (int, optional): Attention heads. Defaults to one per 64 channels.

    Raises:
        UserError: If a weight is missing, or 64 does not divide the width and ``num_heads`` is None.
    """
    width, in_channels, *_ = shapes.of(f'{patches}.projection.weight', 4)
    if num_heads is None and width % _CHANNELS_PER_HEAD:
        raise UserError(
            f'a width of {width} is not a multiple of {_CHANNELS_PER_HEAD}, the width of an attention head in '
            'published models: pass --num-heads'
        )
    arch = dict(
        embed_dims=width,
        num_layers=shapes.num_layers(),
        num_heads=width // _CHANNELS_PER_HEAD if num_heads is None else num_heads,
        feedforward_channels=shapes.of(f'{block}.ffn.layers.0.0.weight', 2)[0],
    )
    options: dict = dict(arch=next((name for name, known in ViTTM.arch_zoo.items() if known == arch), arch))
    if in_channels != 3:
        options['in_channels'] = in_channels
    if f'{block}.attn.gamma1.weight' in shapes:
        options['layer_scale_init_value'] = 1e-6  # any value above 0 creates the parameters; their values are loaded
    if f'{block}.attn.qkv.bias' not in shapes:
        options['qkv_bias'] = False
    return options


def _checked_img_size(
    patches: Mapping[str, tuple[int, int]], tokens: Mapping[str, int], given: int | tuple[int, int] | None
) -> tuple[int, int]:
    """Return ``given``, or the largest image with square grids, if it gives both streams their numbers of tokens."""
    size = (given, given) if isinstance(given, int) else given
    if size is None:
        sides = {embed: isqrt(number) for embed, number in tokens.items()}
        height, width = (min(sides[embed] * patch[axis] for embed, patch in patches.items()) for axis in (0, 1))
        size = height, width
    if any(-(-size[0] // patch[0]) * -(-size[1] // patch[1]) != tokens[embed] for embed, patch in patches.items()):
        found = ' and '.join(
            f'{tokens[embed]} {embed.removesuffix("_embed")} tokens of {patch[0]}×{patch[1]} pixels'
            for embed, patch in patches.items()
        )
        image = 'one square image' if given is None else f'an image of {size[0]}×{size[1]} pixels'
        raise UserError(f'{found} do not cover {image}: give the image size of the model (--img-size)')
    return size


def _rw_head(shapes: WeightShapes, width: int) -> dict:
    head = 'backbone.layers.0.read_head'
    has = {name: f'{head}.{name}.weight' in shapes for name in ('q', 'q_norm', 'mlp.fc2', 'mlp2.fc2')}
    if has['mlp2.fc2']:
        latents, hidden = shapes.of(f'{head}.mlp.fc2.weight', 2)
        return dict(type='LatentAttention', latent_ratio=_ratio(width, latents), hidden_dims=hidden)
    if has['mlp.fc2']:
        return dict(type='TokenLearner')
    latents = shapes.of(f'{head}.q.weight', 2)[0]
    if not has['q_norm']:
        return dict(type='LinearAttention', latent_ratio=_ratio(width, latents))
    if latents == width:
        return dict(type='CrossAttention')
    return dict(type='LatentCrossAttention', latent_ratio=_ratio(width, latents))


def _memory_block(shapes: WeightShapes, layer: int, width: int) -> dict | None:
    fc1 = f'backbone.layers.{layer}.memory_block.mlp.fc1.weight'
    return dict(type='MemoryMLP', mlp_ratio=shapes.of(fc1, 2)[0] / width) if fc1 in shapes else None


def _ratio(width: int, latents: int) -> int:
    if width % latents:
        raise UserError(f'the read heads have {latents} latents, which do not divide the width of {width}')
    return width // latents


def _short(size: tuple[int, int]) -> int | tuple[int, int]:
    return size[0] if size[0] == size[1] else size
