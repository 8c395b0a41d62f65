from .blue_marble import BlueMarbleDataset
from .camvid import CamVidDataset
from .digit_scenes import DigitScenesDataset, MakeDigitScene
from .readable import ReadableDataset
from .seeded import SeededDataset, SeededSampler
from .transforms import CheckLabels

__all__ = [
    'BlueMarbleDataset',
    'CamVidDataset',
    'CheckLabels',
    'DigitScenesDataset',
    'MakeDigitScene',
    'ReadableDataset',
    'SeededDataset',
    'SeededSampler',
]
