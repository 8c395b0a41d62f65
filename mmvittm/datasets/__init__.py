from .blue_marble import BlueMarbleDataset
from .camvid import CamVidDataset
from .digit_scenes import DigitScenesDataset, MakeDigitScene
from .seeded import SeededDataset, SeededSampler
from .transforms import CheckLabels, RandomRoll
from .unreadable_files import UnreadableFileGuard

__all__ = [
    'BlueMarbleDataset',
    'CamVidDataset',
    'CheckLabels',
    'DigitScenesDataset',
    'MakeDigitScene',
    'RandomRoll',
    'SeededDataset',
    'SeededSampler',
    'UnreadableFileGuard',
]
