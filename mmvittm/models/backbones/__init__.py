from .vittm import ViTTM, ViTTMLayer

__all__ = ['ViTTM', 'ViTTMLayer']
