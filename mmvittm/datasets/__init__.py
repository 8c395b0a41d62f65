from .blue_marble import BlueMarbleDataset
from .camvid import CamVidDataset
from .digit_scenes import DigitScenesDataset, MakeDigitScene
from .seeded import SeededDataset, SeededSampler
from .transforms import CheckLabels
from .unreadable_files import UnreadableFileGuard

__all__ = [
    'BlueMarbleDataset',
    'CamVidDataset',
    'CheckLabels',
    'DigitScenesDataset',
    'MakeDigitScene',
    'SeededDataset',
    'SeededSampler',
    'UnreadableFileGuard',
]
