from .blue_marble import BlueMarbleDataset
from .readable import ReadableDataset
from .seeded import SeededDataset, SeededSampler
from .transforms import CheckLabels

__all__ = ['BlueMarbleDataset', 'CheckLabels', 'ReadableDataset', 'SeededDataset', 'SeededSampler']
