"""The layout of the ViTTM authors' checkpoints, and its translation to ours and back (source: their release)."""

import re
from collections.abc import Mapping

from torch import Tensor

from .infer_arch import infer_arch
from .key_table import KeyTable
from .loading import unwrapped

# timm's names of a ViT block, which the authors keep -> mmpretrain's.
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
TO_MMVITTM = KeyTable({theirs: f'backbone.{ours}' for theirs, ours in _BACKBONE_RULES.items()} | _HEAD_RULES)
TO_AUTHORS = TO_MMVITTM.inverse

# Weights of the ViT that the authors' model derives from; its forward pass never uses them.
_UNUSED = re.compile(r'cls_token|pos_embed|patch_embed\..+')


def authors_to_mmvittm(state_dict: Mapping) -> dict[str, Tensor]:
    """Translate an authors' checkpoint to the keys of an mmpretrain classifier with a ViTTM backbone.

    With a memory patch of 16, ``memory_embedder`` and ``patch_embed`` are one module in the authors' model. A file that
    stores it once, as ``patch_embed`` (safetensors does not store weights twice), is accepted.

    Args:
        state_dict (Mapping): The authors' weights, wrapped or nested in any way that
            :func:`~mmvittm.weights.loading.unwrapped` accepts.

    Returns:
        dict[str, Tensor]: Keys ``backbone.…`` and ``head.…``, without weights that the authors' forward pass never
        uses.

    Raises:
        UserError: If there are no weights, or keys that the authors' layout does not have.
    """
    theirs = unwrapped(state_dict)
    theirs = _shared_memory_embedder(theirs) | theirs
    used = {key: value for key, value in theirs.items() if not (_UNUSED.fullmatch(key) or _is_unused(key, theirs))}
    return TO_MMVITTM.translate(used, "ViTTM's authors")


def mmvittm_to_authors(state_dict: Mapping) -> dict[str, Tensor]:
    """Translate weights to the authors' layout, the inverse of :func:`authors_to_mmvittm`.

    Weights that the authors' model holds but never uses are missing: load the result into it with ``strict=False``.

    Args:
        state_dict (Mapping): Weights with keys ``backbone.…`` and, of a classifier, ``head.…``, wrapped or nested in
            any way that :func:`~mmvittm.weights.loading.unwrapped` accepts.

    Returns:
        dict[str, Tensor]: The same weights under the authors' keys.

    Raises:
        UserError: If there are no weights, or keys of a module that the authors' model does not have.
    """
    return TO_AUTHORS.translate(unwrapped(state_dict), "an mmvittm model whose modules ViTTM's authors also have")


def _shared_memory_embedder(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the memory embedder's weights if they are stored as ``patch_embed`` only, else nothing."""
    weight = theirs.get('patch_embed.proj.weight')
    if 'memory_embedder.proj.weight' in theirs or getattr(weight, 'shape', ())[2:] != (16, 16):
        return {}
    names = {f'patch_embed.proj.{param}': f'memory_embedder.proj.{param}' for param in ('weight', 'bias')}
    return {ours: theirs[name] for name, ours in names.items() if name in theirs}


def _is_unused(key: str, theirs: Mapping[str, Tensor]) -> bool:
    """Tell whether ``key`` is the output projection of a LinearAttention, which the authors' code never applies.

    A LinearAttention has queries, keys and values, but no norms of them.
    """
    head = re.fullmatch(r'((?:read|write)_head\.\d+)\.proj\.(?:weight|bias)', key)
    return head is not None and f'{head[1]}.q.weight' in theirs and f'{head[1]}.q_norm.weight' not in theirs


def infer_authors_arch(
    state_dict: Mapping,
    num_heads: int | None = None,
    fusion: str = 'AddFusion',
    img_size: int | tuple[int, int] | None = None,
) -> dict:
    """Infer the config of an authors' model from the shapes of its weights.

    The arguments are what shapes cannot tell. A LatentCrossAttention of ratio 1 has the shapes of a CrossAttention and
    is taken for one.

    Args:
        state_dict (Mapping): The authors' weights, as for :func:`authors_to_mmvittm`.
        num_heads (int, optional): Attention heads. Defaults to one per 64 channels, as in every published model.
        fusion (str): Fusion of a model without gates: 'AddFusion', as in every published model, or 'EraseFusion'.
        img_size (int | tuple[int, int], optional): Image size of the position embeddings, in pixels. Defaults to the
            size that makes both grids square.

    Returns:
        dict: ``backbone``, a config of :class:`mmvittm.models.ViTTM`, and ``num_classes``, an int, or None without a
        classifier.

    Raises:
        UserError: If weights are missing, or the shapes are not those of a ViTTM.
    """
    ours = authors_to_mmvittm(state_dict)
    return infer_arch(ours, num_heads, fusion, img_size, name_of=TO_AUTHORS.translate_key)
