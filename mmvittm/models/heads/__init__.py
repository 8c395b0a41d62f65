"""Classification and decode heads."""

from .pixel_shuffle_head import PixelShuffleHead
from .vittm_cls_head import ViTTMClsHead

__all__ = ['PixelShuffleHead', 'ViTTMClsHead']
