"""Weights: reading checkpoints safely, and converting the authors' checkpoints and plain ViTs."""

from importlib import import_module

from .loading import load_checkpoint_file, load_weights
from .patch_resize import resize_patch_embed
from .safe_loading import use_safe_loading

# These need the models, which take seconds to import, so they are imported on first use.
_LAZY = dict(
    authors_to_mmvittm='authors',
    infer_authors_arch='authors',
    mmvittm_to_authors='authors',
    PlainVit='plain_vit',
    init_from_vit='plain_vit',
)
__all__ = ['load_checkpoint_file', 'load_weights', 'resize_patch_embed', 'use_safe_loading', *_LAZY]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'.{_LAZY[name]}', __name__), name)
