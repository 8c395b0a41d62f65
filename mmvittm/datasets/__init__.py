from .blue_marble import BlueMarbleDataset
from .camvid import CamVidDataset
from .seeded import SeededDataset, SeededSampler
from .transforms import CheckLabels, RandomRoll
from .unreadable_files import UnreadableFileGuard

__all__ = [
    'BlueMarbleDataset',
    'CamVidDataset',
    'CheckLabels',
    'RandomRoll',
    'SeededDataset',
    'SeededSampler',
    'UnreadableFileGuard',
]
