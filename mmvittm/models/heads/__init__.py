"""Classification heads."""

from .vittm_cls_head import ViTTMClsHead

__all__ = ['ViTTMClsHead']
