from .blue_marble import BlueMarbleDataset
from .transforms import CheckLabels

__all__ = ['BlueMarbleDataset', 'CheckLabels']
