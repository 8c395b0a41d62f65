from .blue_marble import BlueMarbleDataset
from .readable import ReadableDataset
from .seeded import SeededDataset, SeededSampler
from .transforms import CheckLabels, RandomRoll

__all__ = ['BlueMarbleDataset', 'CheckLabels', 'RandomRoll', 'ReadableDataset', 'SeededDataset', 'SeededSampler']
