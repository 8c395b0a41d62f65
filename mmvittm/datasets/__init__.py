from .blue_marble import BlueMarbleDataset
from .camvid import CamVidDataset
from .checked import CheckedDataset
from .digit_scenes import DigitScenesDataset, MakeDigitScene
from .seeded import SeededDataset, SeededSampler
from .transforms import Cached, CheckImage, CheckLabels, RandomRoll

__all__ = [
    'BlueMarbleDataset',
    'Cached',
    'CamVidDataset',
    'CheckImage',
    'CheckLabels',
    'CheckedDataset',
    'DigitScenesDataset',
    'MakeDigitScene',
    'RandomRoll',
    'SeededDataset',
    'SeededSampler',
]
