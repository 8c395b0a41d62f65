"""The layout of the ViTTM authors' checkpoints, and its translation to ours (facts: their release)."""

import re
from collections.abc import Mapping

from torch import Tensor

from ..errors import UserError

# What training wraps around a model leaves its name in front of every key.
_WRAPPERS = re.compile(r'^(?:(?:module|_orig_mod|model)\.)+')

# Theirs -> ours; a group stands for a layer's number or for the rest of a key, which is the same on both sides.
_RULES = [
    (r'(memory|process)_embedder\.proj\.(.+)', r'backbone.\1_embed.patches.projection.\2'),
    (r'(memory|process)_pos_embed', r'backbone.\1_embed.pos_embed'),
    (r'(read|write)_(norm|head)\.(\d+)\.(.+)', r'backbone.layers.\3.\1_\2.\4'),
    (r'(read|write)_fusion\.(.+)', r'backbone.\1_fusion.\2'),
    (r'blocks\.(\d+)\.norm([12])\.(.+)', r'backbone.layers.\1.vit_block.ln\2.\3'),
    (r'blocks\.(\d+)\.attn\.(.+)', r'backbone.layers.\1.vit_block.attn.\2'),
    (r'blocks\.(\d+)\.mlp\.fc1\.(.+)', r'backbone.layers.\1.vit_block.ffn.layers.0.0.\2'),
    (r'blocks\.(\d+)\.mlp\.fc2\.(.+)', r'backbone.layers.\1.vit_block.ffn.layers.1.\2'),
    (r'blocks\.(\d+)\.ls1\.gamma', r'backbone.layers.\1.vit_block.attn.gamma1.weight'),
    (r'blocks\.(\d+)\.ls2\.gamma', r'backbone.layers.\1.vit_block.ffn.gamma2.weight'),
    (r'mem_blocks\.(\d+)\.(.+)', r'backbone.layers.\1.memory_block.\2'),
    (r'process_norm\.(.+)', r'backbone.process_norm.\1'),
    (r'fc_norm\.(.+)', r'head.memory_norm.\1'),
    (r'fc_norm_process\.(.+)', r'head.process_norm.\1'),
    (r'head\.(.+)', r'head.memory_fc.\1'),
    (r'process_head\.(.+)', r'head.process_fc.\1'),
]

# Left over from the ViT that theirs derives from; its forward pass never used them.
_UNUSED = re.compile(r'cls_token|pos_embed|patch_embed\..+|n_averaged')


def convert_official_state_dict(state_dict: Mapping) -> dict[str, Tensor]:
    """Translate a checkpoint of the authors to the keys of an mmpretrain classifier with a ViTTM backbone.

    Args:
        state_dict (Mapping): Their weights: plain, of an EMA (``module.…``), compiled (``_orig_mod.…``), or nested
            under ``'state_dict'`` as Lightning does.

    Returns:
        dict[str, Tensor]: Keys ``backbone.…`` and ``head.…``, without what their forward pass never used.

    Raises:
        UserError: If a key is not one of theirs.
    """
    theirs = {_WRAPPERS.sub('', key): value for key, value in state_dict.get('state_dict', state_dict).items()}
    ours = {}
    for key, value in theirs.items():
        if _UNUSED.fullmatch(key) or _is_unused_projection(key, theirs):
            continue
        ours[_translate(key)] = value
    return ours


def _is_unused_projection(key: str, theirs: Mapping) -> bool:
    """Their LinearAttention, the one with plain queries, keys and values, has an output projection it never applies."""
    head = re.fullmatch(r'((?:read|write)_head\.\d+)\.proj\.(?:weight|bias)', key)
    return head is not None and f'{head[1]}.q.weight' in theirs and f'{head[1]}.q_norm.weight' not in theirs


def _translate(key: str) -> str:
    for pattern, replacement in _RULES:
        match = re.fullmatch(pattern, key)
        if match:
            return match.expand(replacement)
    raise UserError(f"unknown key {key!r}: this is not a checkpoint in the layout of ViTTM's authors")
