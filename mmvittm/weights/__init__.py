"""Weights: reading checkpoints safely, and converting the authors' checkpoints and plain ViTs."""

from .authors import authors_to_mmvittm, infer_authors_arch, mmvittm_to_authors
from .loading import load_checkpoint_file, load_weights
from .patch_resize import resize_patch_embed
from .plain_vit import PlainVit, init_from_vit
from .safe_loading import use_safe_loading

__all__ = [
    'PlainVit',
    'authors_to_mmvittm',
    'infer_authors_arch',
    'init_from_vit',
    'load_checkpoint_file',
    'load_weights',
    'mmvittm_to_authors',
    'resize_patch_embed',
    'use_safe_loading',
]
