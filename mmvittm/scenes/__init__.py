"""Segmentation of images of any size, in one pass or with a sliding window; no image is whole in memory."""

from .predict import MODES, predict_scene
from .whole import Scene, SceneModel

__all__ = ['MODES', 'Scene', 'SceneModel', 'predict_scene']
