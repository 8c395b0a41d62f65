"""The layout of the ViTTM authors' checkpoints, and its translation to ours and back (facts: their release)."""

import re
from collections.abc import Mapping

from torch import Tensor

from .infer_arch import infer_arch
from .key_table import KeyTable, unwrapped

# timm's names of a ViT's block, which the authors keep -> mmpretrain's.
VIT_BLOCK_RULES = {
    'blocks.{layer}.norm{n}.{param}': 'layers.{layer}.vit_block.ln{n}.{param}',
    'blocks.{layer}.attn.qkv.{param}': 'layers.{layer}.vit_block.attn.qkv.{param}',
    'blocks.{layer}.attn.proj.{param}': 'layers.{layer}.vit_block.attn.proj.{param}',
    'blocks.{layer}.ls1.gamma': 'layers.{layer}.vit_block.attn.gamma1.weight',
    'blocks.{layer}.mlp.fc1.{param}': 'layers.{layer}.vit_block.ffn.layers.0.0.{param}',
    'blocks.{layer}.mlp.fc2.{param}': 'layers.{layer}.vit_block.ffn.layers.1.{param}',
    'blocks.{layer}.ls2.gamma': 'layers.{layer}.vit_block.ffn.gamma2.weight',
}
_BACKBONE_RULES = VIT_BLOCK_RULES | {
    '{stream}_embedder.proj.{param}': '{stream}_embed.patches.projection.{param}',
    '{stream}_pos_embed': '{stream}_embed.pos_embed',
    '{action}_norm.{layer}.{param}': 'layers.{layer}.{action}_norm.{param}',
    '{action}_head.{layer}.{head_part}.{param}': 'layers.{layer}.{action}_head.{head_part}.{param}',
    '{action}_fusion.linear.{param}': '{action}_fusion.linear.{param}',
    'mem_blocks.{layer}.{memory_part}.{param}': 'layers.{layer}.memory_block.{memory_part}.{param}',
    'process_norm.{param}': 'process_norm.{param}',
}
_HEAD_RULES = {
    'fc_norm.{param}': 'head.memory_norm.{param}',
    'fc_norm_process.{param}': 'head.process_norm.{param}',
    'head.{param}': 'head.memory_fc.{param}',
    'process_head.{param}': 'head.process_fc.{param}',
}
TO_OURS = KeyTable({theirs: f'backbone.{ours}' for theirs, ours in _BACKBONE_RULES.items()} | _HEAD_RULES)
TO_THEIRS = TO_OURS.inverse

# Left over from the ViT that theirs derives from; its forward pass never used them.
_UNUSED = re.compile(r'cls_token|pos_embed|patch_embed\..+')


def authors_to_mmvittm(state_dict: Mapping) -> dict[str, Tensor]:
    """Translate a checkpoint of the authors to the keys of an mmpretrain classifier with a ViTTM backbone.

    Where the memory patch is 16, their ``memory_embedder`` is their ``patch_embed``, and a format that stores shared
    weights once, as safetensors does, may know it by the second name only: it is then taken from there.

    Args:
        state_dict (Mapping): Their weights: plain, of an EMA (``module.…``), compiled (``_orig_mod.…``), or nested
            under ``'state_dict'`` or ``'model'`` as Lightning and others do, in any combination.

    Returns:
        dict[str, Tensor]: Keys ``backbone.…`` and ``head.…``, without what their forward pass never used.

    Raises:
        UserError: If there are no weights, or some that are not theirs.
    """
    theirs = unwrapped(state_dict)
    theirs = _shared_memory_embedder(theirs) | theirs
    used = {key: value for key, value in theirs.items() if not (_UNUSED.fullmatch(key) or _is_unused(key, theirs))}
    return TO_OURS.translate(used, "ViTTM's authors")


def mmvittm_to_authors(state_dict: Mapping) -> dict[str, Tensor]:
    """Translate back: the inverse of :func:`authors_to_mmvittm`.

    What their model holds but never uses is not made up: load the result into it with ``strict=False``.

    Args:
        state_dict (Mapping): Weights with keys ``backbone.…`` and, of a classifier, ``head.…``; wrapped or nested as
            :func:`authors_to_mmvittm` takes them.

    Returns:
        dict[str, Tensor]: The same weights under the authors' keys.

    Raises:
        UserError: If there are no weights, or some of a part that the authors do not have.
    """
    ours = unwrapped(state_dict)
    return TO_THEIRS.translate(ours, "an mmvittm model whose parts ViTTM's authors have too")


def _shared_memory_embedder(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the memory embedder that are stored as ``patch_embed``'s only."""
    weight = theirs.get('patch_embed.proj.weight')
    if 'memory_embedder.proj.weight' in theirs or getattr(weight, 'shape', ())[2:] != (16, 16):
        return {}
    names = {f'patch_embed.proj.{param}': f'memory_embedder.proj.{param}' for param in ('weight', 'bias')}
    return {ours: theirs[name] for name, ours in names.items() if name in theirs}


def _is_unused(key: str, theirs: Mapping[str, Tensor]) -> bool:
    """Their LinearAttention, the one with plain queries, keys and values, has an output projection it never applies."""
    head = re.fullmatch(r'((?:read|write)_head\.\d+)\.proj\.(?:weight|bias)', key)
    return head is not None and f'{head[1]}.q.weight' in theirs and f'{head[1]}.q_norm.weight' not in theirs


def infer_authors_arch(
    state_dict: Mapping,
    num_heads: int | None = None,
    fusion: str = 'AddFusion',
    img_size: int | tuple[int, int] | None = None,
) -> dict:
    """Read a model's configuration off the shapes of its weights, in the authors' layout.

    What no weight tells are the arguments. Of a CrossAttention and a LatentCrossAttention of ratio 1, whose weights
    are alike, the first is taken.

    Args:
        state_dict (Mapping): As :func:`authors_to_mmvittm` takes it.
        num_heads (int, optional): Attention heads. Defaults to one for 64 channels, as in every published model.
        fusion (str): Fusion of a model without gates: 'AddFusion', as in every published model, or 'EraseFusion'.
        img_size (int | tuple[int, int], optional): Image size of the position embeddings, in pixels. Defaults to that
            of square grids.

    Returns:
        dict: ``backbone``, a config of :class:`mmvittm.models.ViTTM`, and ``num_classes``, an int, or None without a
        classifier.

    Raises:
        UserError: If weights are missing, or the shapes belong to no ViTTM.
    """
    ours = authors_to_mmvittm(state_dict)
    return infer_arch(ours, num_heads, fusion, img_size, name_of=TO_THEIRS.translate_key)
