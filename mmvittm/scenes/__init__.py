"""Segmentation of images of any size, in one pass or with a sliding window; no image is whole in memory."""

from .models import load_segmentor, load_shipped_model
from .predict import MODES, predict_scene
from .whole import Scene, SceneModel

__all__ = ['MODES', 'Scene', 'SceneModel', 'load_segmentor', 'load_shipped_model', 'predict_scene']
