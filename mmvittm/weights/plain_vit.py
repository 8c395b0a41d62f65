"""Starting a ViTTM from a plain ViT: its blocks, patch embedding, positions and final norm."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isqrt

from torch import Tensor

from ..errors import UserError
from ..models import PatchTokens, ViTTM
from ..models.token_embeds import resample_pos_embed
from .authors import VIT_BLOCK_RULES
from .infer_arch import WeightShapes, heads_of, named_arch, vit_block_options
from .key_table import KeyTable, unwrapped
from .mismatch import describe_mismatch
from .patch_resize import resize_patch_embed

# timm's ViT and mmpretrain's, whose blocks are ours, -> ours.
_TIMM_RULES = VIT_BLOCK_RULES | {
    'patch_embed.proj.{param}': 'patches.projection.{param}',
    'norm.{param}': 'process_norm.{param}',
}
_MMPRETRAIN_RULES = {ours.replace('.vit_block', ''): ours for ours in VIT_BLOCK_RULES.values()} | {
    'patch_embed.projection.{param}': 'patches.projection.{param}',
    'ln1.{param}': 'process_norm.{param}',
}
_TO_OURS = KeyTable(_TIMM_RULES | _MMPRETRAIN_RULES | {'pos_embed': 'pos_embed'})

_EXTRA_TOKENS = ('cls_token', 'dist_token')
# What a ViTTM has no place for: extra tokens, the classifier, and the norms behind pooling.
_LEFT_OUT = re.compile(r'cls_token|dist_token|head(?:_dist)?\..+|pre_logits\..+|fc_norm\..+|ln2\..+')


@dataclass
class VitInit:
    """What became of the parameters of a ViTTM that starts from a ViT, by key."""

    copied: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass
class PlainVit:
    """A ViT's weights under our names.

    Attributes:
        weights (dict[str, Tensor]): ``layers.i.vit_block.…``, ``patches.projection.…``, ``process_norm.…`` and
            ``pos_embed`` without extra tokens, ``(1, N, C)``.
        grid (tuple[int, int]): Rows and columns of ``pos_embed``.
        left_out (list[str]): Keys that a ViTTM has no place for.
    """

    weights: dict[str, Tensor]
    grid: tuple[int, int]
    left_out: list[str]

    @classmethod
    def from_state_dict(cls, state_dict: Mapping) -> 'PlainVit':
        """Read a ViT or DeiT of timm or mmpretrain, plain, wrapped or nested (see :func:`.key_table.unwrapped`).

        Raises:
            UserError: If there are weights that such a ViT does not have, or some of its are missing.
        """
        theirs = unwrapped(state_dict)
        theirs = {key.removeprefix('backbone.'): value for key, value in theirs.items()}
        left_out = [key for key in theirs if _LEFT_OUT.fullmatch(key)]
        weights = _TO_OURS.translate(
            {key: value for key, value in theirs.items() if key not in left_out}, "a ViT of timm's or mmpretrain's"
        )
        length = WeightShapes(weights).of('pos_embed', 3)[1]
        # A DeiT-III has a class token without a position.
        for extra in (sum(token in theirs for token in _EXTRA_TOKENS), 0):
            side = isqrt(max(length - extra, 0))
            if side and side**2 == length - extra:
                return cls(weights | dict(pos_embed=weights['pos_embed'][:, extra:]), (side, side), left_out)
        raise UserError(f'a position embedding of {length} tokens is not one of a square image')

    def backbone_options(self, num_heads: int | None = None) -> dict:
        """What a ViTTM must have in common with this ViT, as options of its constructor.

        Args:
            num_heads (int, optional): Attention heads, which no weight tells. Defaults to one for 64 channels.

        Raises:
            UserError: If weights are missing.
        """
        shapes = WeightShapes(self.weights)
        width, in_channels, *_ = shapes.of('patches.projection.weight', 4)
        block = 'layers.0.vit_block'
        arch = named_arch(
            embed_dims=width,
            num_layers=shapes.num_layers(),
            num_heads=heads_of(width) if num_heads is None else num_heads,
            feedforward_channels=shapes.of(f'{block}.ffn.layers.0.0.weight', 2)[0],
        )
        options = vit_block_options(shapes, block)
        return dict(arch=arch) | (dict(in_channels=in_channels) if in_channels != 3 else {}) | options


def init_from_vit(model: ViTTM, vit: PlainVit, kernel: str = 'bilinear') -> VitInit:
    """Start a ViTTM from a ViT.

    Blocks are copied. Both patch embeddings come from the ViT's, resized to their patch sizes, and both position
    embeddings from its, resampled to their grids. The final norm is copied to ``process_norm``: behind a fresh norm
    of the last write it computes what it did in the ViT. All other parameters stay as they are.

    Args:
        model (ViTTM): The model to start, changed in place.
        vit (PlainVit): The ViT.
        kernel (str): How patches are resized, see :func:`mmvittm.weights.resize_patch_embed`.

    Returns:
        VitInit: What became of each parameter.

    Raises:
        UserError: If the ViT is of another width, depth or kind of block than the model's.
    """
    weights = {key: value for key, value in vit.weights.items() if key.startswith(('layers.', 'process_norm.'))}
    for name in ('memory_embed', 'process_embed'):
        embed = getattr(model, name)
        if isinstance(embed, PatchTokens):
            weights |= {f'{name}.{key}': value for key, value in _embedding(vit, embed, kernel).items()}

    # What a ViTTM adds to a ViT may stay fresh, but no part of a block may.
    kept = {key: value for key, value in model.state_dict().items() if '.vit_block.' not in key}
    if problem := describe_mismatch(model, kept | weights):
        raise UserError(f'this ViT is not one that the model can start from: {problem}')
    model.load_state_dict(kept | weights)

    sources = {id(value) for value in vit.weights.values()}
    return VitInit(
        copied=[key for key, value in weights.items() if id(value) in sources],
        resized=[key for key, value in weights.items() if id(value) not in sources],
        fresh=[key for key in kept if key not in weights],
        left_out=vit.left_out,
    )


def _embedding(vit: PlainVit, embed: PatchTokens, kernel: str) -> dict[str, Tensor]:
    """The ViT's patch and position embeddings for the patch size and the grid of ``embed``."""
    weights = {key: value for key, value in vit.weights.items() if key.startswith('patches.')}
    name = 'patches.projection.weight'
    weights[name] = resize_patch_embed(weights[name], embed.patch_size, kernel)
    weights['pos_embed'] = resample_pos_embed(vit.weights['pos_embed'], vit.grid, embed.grid)
    return weights
