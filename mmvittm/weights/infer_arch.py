"""Reading a model's configuration off the shapes of its weights."""

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
        name_of (Callable[[str], str]): What errors call a key.
    """

    def __init__(self, weights: Mapping[str, Tensor], name_of: Callable[[str], str] = str) -> None:
        self._shapes = {key: tuple(value.shape) for key, value in weights.items()}
        self._name_of = name_of

    def __contains__(self, key: str) -> bool:
        return key in self._shapes

    def of(self, key: str, ndim: int) -> tuple[int, ...]:
        """The shape of a weight of ``ndim`` dimensions; a UserError if there is none."""
        shape = self._shapes.get(key)
        if shape is None:
            raise UserError(f'these are not the weights of a whole model: {self._name_of(key)} is missing')
        if len(shape) != ndim:
            raise UserError(f'{self._name_of(key)} has the shape {shape} where {ndim} dimensions are expected')
        return shape

    def num_layers(self) -> int:
        """Number of layers that have weights ``layers.i.…`` or ``backbone.layers.i.…``."""
        return len({match[1] for key in self._shapes if (match := re.match(r'(?:backbone\.)?layers\.(\d+)\.', key))})


def infer_arch(
    state_dict: Mapping[str, Tensor],
    num_heads: int | None = None,
    fusion: str = 'AddFusion',
    img_size: int | tuple[int, int] | None = None,
    name_of: Callable[[str], str] = str,
) -> dict:
    """Read the configuration of a ViTTM with the parts that its authors have off the shapes of its weights.

    Args:
        state_dict (Mapping[str, Tensor]): Weights with keys ``backbone.…`` and, of a classifier, ``head.…``.
        num_heads (int, optional): As in :func:`mmvittm.weights.infer_authors_arch`; so are the others.
        fusion (str): Likewise.
        img_size (int | tuple[int, int], optional): Likewise.
        name_of (Callable[[str], str]): What errors call a key.

    Returns:
        dict: ``backbone`` and ``num_classes``.

    Raises:
        UserError: If weights are missing, or the shapes belong to no such model.
    """
    shapes = WeightShapes(state_dict, name_of)
    width, in_channels, *_ = shapes.of('backbone.memory_embed.patches.projection.weight', 4)
    patches, tokens = {}, {}
    for embed in ('memory_embed', 'process_embed'):
        patches[embed] = shapes.of(f'backbone.{embed}.patches.projection.weight', 4)[2:]
        tokens[embed] = shapes.of(f'backbone.{embed}.pos_embed', 3)[1]
    block = 'backbone.layers.0.vit_block'
    gated = 'backbone.read_fusion.linear.weight' in shapes
    backbone = dict(
        type='mmvittm.ViTTM',
        arch=named_arch(
            embed_dims=width,
            num_layers=shapes.num_layers(),
            num_heads=heads_of(width) if num_heads is None else num_heads,
            feedforward_channels=shapes.of(f'{block}.ffn.layers.0.0.weight', 2)[0],
        ),
        img_size=_short(_checked_img_size(patches, tokens, img_size)),
        memory_embed=dict(type='PatchTokens', patch_size=_short(patches['memory_embed'])),
        process_embed=dict(type='PatchTokens', patch_size=_short(patches['process_embed'])),
        rw_head=_rw_head(shapes, width),
        fusion=dict(type='AddEraseFusion' if gated else fusion),
    )
    if in_channels != 3:
        backbone['in_channels'] = in_channels
    memory_mlp = 'backbone.layers.0.memory_block.mlp.fc1.weight'
    if memory_mlp in shapes:
        backbone['memory_block'] = dict(type='MemoryMLP', mlp_ratio=shapes.of(memory_mlp, 2)[0] / width)
    head = 'head.memory_fc.weight'
    return dict(
        backbone=backbone | vit_block_options(shapes, block),
        num_classes=shapes.of(head, 2)[0] if head in shapes else None,
    )


def vit_block_options(shapes: WeightShapes, block: str) -> dict:
    """What makes the ViT blocks differ from the default: layer scale, and no bias of queries, keys and values."""
    options = {}
    if f'{block}.attn.gamma1.weight' in shapes:
        options['layer_scale_init_value'] = 1e-6  # any value above 0 makes the parameters, which are then loaded
    if f'{block}.attn.qkv.bias' not in shapes:
        options['qkv_bias'] = False
    return options


def named_arch(**arch: int) -> str | dict:
    """The name of an arch if it has one, else the arch."""
    return next((name for name, known in ViTTM.arch_zoo.items() if known == arch), arch)


def heads_of(width: int) -> int:
    """The published number of attention heads for a width, which no weight tells."""
    if width % _CHANNELS_PER_HEAD:
        raise UserError(
            f'a width of {width} is no multiple of {_CHANNELS_PER_HEAD}, the published width of a head: '
            'give the number of heads (--num-heads)'
        )
    return width // _CHANNELS_PER_HEAD


def _checked_img_size(
    patches: Mapping[str, tuple[int, int]], tokens: Mapping[str, int], given: int | tuple[int, int] | None
) -> tuple[int, int]:
    """``given``, or the largest image with square grids, if all patches cover it with their numbers of tokens."""
    size = (given, given) if isinstance(given, int) else given
    if size is None:
        spans = {embed: isqrt(number) for embed, number in tokens.items()}
        size = tuple(min(spans[embed] * patch[axis] for embed, patch in patches.items()) for axis in (0, 1))
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


def _ratio(width: int, latents: int) -> int:
    if width % latents:
        raise UserError(f'the read heads have {latents} latents, which do not divide the width of {width}')
    return width // latents


def _short(size: tuple[int, int]) -> int | tuple[int, int]:
    return size[0] if size[0] == size[1] else size
