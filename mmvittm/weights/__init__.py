"""Helpers around the model; import the module you need, this package itself stays light."""

from importlib import import_module

# What users convert weights with, imported when first asked for.
_EXPORTS = dict(
    authors_to_mmvittm='authors',
    mmvittm_to_authors='authors',
    infer_authors_arch='authors',
    init_from_vit='plain_vit',
    PlainVit='plain_vit',
    resize_patch_embed='patch_resize',
)
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'.{_EXPORTS[name]}', __name__), name)
