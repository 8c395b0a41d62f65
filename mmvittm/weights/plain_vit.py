"""Initialisation of a ViTTM from a plain ViT of timm or mmpretrain."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isqrt

from torch import Tensor

from ..errors import UserError
from ..models import PatchTokens, ViTTM
from ..models.token_embeds import resample_pos_embed
from .authors import VIT_BLOCK_RULES
from .infer_arch import WeightShapes, vit_options
from .key_table import KeyTable
from .loading import unwrapped
from .mismatch import describe_mismatch
from .patch_resize import resize_patch_embed

# timm's names of a ViT -> ours; mmpretrain's -> ours, which differ outside of the blocks only.
_TIMM_RULES = VIT_BLOCK_RULES | {
    'patch_embed.proj.{param}': 'patches.projection.{param}',
    'norm.{param}': 'process_norm.{param}',
}
_MMPRETRAIN_RULES = {ours.replace('.vit_block', ''): ours for ours in VIT_BLOCK_RULES.values()} | {
    'patch_embed.projection.{param}': 'patches.projection.{param}',
    'ln1.{param}': 'process_norm.{param}',
}
_TO_MMVITTM = KeyTable(_TIMM_RULES | _MMPRETRAIN_RULES | {'pos_embed': 'pos_embed'})

_EXTRA_TOKENS = ('cls_token', 'dist_token')
# A ViTTM has no extra tokens, no such classifier, and no norms after pooling.
_DROPPED = re.compile(r'cls_token|dist_token|head(?:_dist)?\..+|pre_logits\..+|fc_norm\..+|ln2\..+')


@dataclass
class VitInit:
    """Keys of a ViTTM initialised from a ViT by the source of their values, and keys of the ViT that were dropped."""

    copied: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


@dataclass
class PlainVit:
    """A ViT's weights under our names.

    Attributes:
        weights (dict[str, Tensor]): ``layers.i.vit_block.…``, ``patches.projection.…``, ``process_norm.…`` and
            ``pos_embed`` without extra tokens, ``(1, N, C)``.
        grid (tuple[int, int]): Rows and columns of ``pos_embed``.
        dropped (list[str]): Keys without a counterpart in a ViTTM.
    """

    weights: dict[str, Tensor]
    grid: tuple[int, int]
    dropped: list[str]

    @classmethod
    def from_state_dict(cls, state_dict: Mapping) -> 'PlainVit':
        """Read a ViT or DeiT of timm or mmpretrain, wrapped or nested in any way that ``unwrapped`` accepts.

        Raises:
            UserError: If there are keys that such a ViT does not have, or the position embedding is missing or not
                square. One of another shape whose length is a square number passes for one without a class token.
        """
        theirs = unwrapped(state_dict)
        theirs = {key.removeprefix('backbone.'): value for key, value in theirs.items()}
        dropped = [key for key in theirs if _DROPPED.fullmatch(key)]
        weights = _TO_MMVITTM.translate(
            {key: value for key, value in theirs.items() if key not in dropped}, "a ViT of timm's or mmpretrain's"
        )
        length = WeightShapes(weights).of('pos_embed', 3)[1]
        # The class token of a DeiT-III or FlexiViT has no position.
        for extra in (sum(token in theirs for token in _EXTRA_TOKENS), 0):
            side = isqrt(max(length - extra, 0))
            if side and side**2 == length - extra:
                return cls(weights | dict(pos_embed=weights['pos_embed'][:, extra:]), (side, side), dropped)
        raise UserError(f'a position embedding of {length} tokens is not one of a square image')

    def backbone_options(self, num_heads: int | None = None) -> dict:
        """Return the constructor options that a ViTTM must share with this ViT.

        Args:
            num_heads (int, optional): Attention heads, which shapes cannot tell. Defaults to one per 64 channels.

        Raises:
            UserError: If weights are missing.
        """
        return vit_options(WeightShapes(self.weights), 'patches', 'layers.0.vit_block', num_heads)


def init_from_vit(model: ViTTM, vit: PlainVit, kernel: str = 'bilinear') -> VitInit:
    """Initialise a ViTTM from a ViT.

    The blocks are copied. The ViT's patch embedding is resized to both patch sizes, its position embedding resampled to
    both grids. The final norm is copied to ``process_norm``; after a freshly initialised norm it computes what it did
    in the ViT. All other parameters stay as they are.

    Args:
        model (ViTTM): The model to initialise, changed in place.
        vit (PlainVit): The ViT.
        kernel (str): Kernel that resizes patches, see :func:`mmvittm.weights.resize_patch_embed`.

    Returns:
        VitInit: The source of each parameter.

    Raises:
        UserError: If the ViT differs from the model in width, depth or block options.
    """
    weights = {key: value for key, value in vit.weights.items() if key.startswith(('layers.', 'process_norm.'))}
    for name in ('memory_embed', 'process_embed'):
        embed = getattr(model, name)
        if isinstance(embed, PatchTokens):
            weights |= {f'{name}.{key}': value for key, value in _embedding(vit, embed, kernel).items()}

    # Parameters that a ViT does not have may keep their values; those of the ViT blocks may not.
    kept = {key: value for key, value in model.state_dict().items() if '.vit_block.' not in key}
    if problem := describe_mismatch(model, kept | weights):
        raise UserError(f'the model cannot be initialised from this ViT: {problem}')
    model.load_state_dict(kept | weights)

    sources = {id(value) for value in vit.weights.values()}
    return VitInit(
        copied=[key for key, value in weights.items() if id(value) in sources],
        resized=[key for key, value in weights.items() if id(value) not in sources],
        fresh=[key for key in kept if key not in weights],
        dropped=vit.dropped,
    )


def _embedding(vit: PlainVit, embed: PatchTokens, kernel: str) -> dict[str, Tensor]:
    """Fit the ViT's patch and position embeddings to the patch size and the grid of ``embed``."""
    weights = {key: value for key, value in vit.weights.items() if key.startswith('patches.')}
    name = 'patches.projection.weight'
    weights[name] = resize_patch_embed(weights[name], embed.patch_size, kernel)
    weights['pos_embed'] = resample_pos_embed(vit.weights['pos_embed'], vit.grid, embed.grid)
    return weights
