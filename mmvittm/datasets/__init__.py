from .blue_marble import BlueMarbleDataset
from .seeded import SeededDataset, SeededSampler
from .transforms import CheckLabels
from .unreadable_files import UnreadableFileGuard

__all__ = ['BlueMarbleDataset', 'CheckLabels', 'SeededDataset', 'SeededSampler', 'UnreadableFileGuard']
