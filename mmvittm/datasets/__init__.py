from .blue_marble import BlueMarbleDataset
from .seeded import SeededDataset, SeededSampler
from .transforms import CheckLabels

__all__ = ['BlueMarbleDataset', 'CheckLabels', 'SeededDataset', 'SeededSampler']
