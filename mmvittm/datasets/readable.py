"""Naming the file that cannot be read, where a reader's own error names none or a line of its source."""

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from PIL import Image
from torch.utils.data import Dataset

from ..errors import UserError
from ..registry import DATASETS


@DATASETS.register_module()
class ReadableDataset(Dataset):
    """Another data set, whose broken files end validation and testing with a sentence: none may be left out there.

    Args:
        dataset (dict): Config of the data set.
    """

    def __init__(self, dataset: dict) -> None:
        self.dataset = MMENGINE_DATASETS.build(dataset)
        self.metainfo = getattr(self.dataset, 'metainfo', {})

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        """Load a sample.

        Raises:
            UserError: If its image or label map cannot be read.
        """
        try:
            return self.dataset[index]
        except UserError:
            raise
        except Exception as error:
            if problem := unreadable_file(self.dataset.get_data_info(index)):
                raise UserError(f'{problem}; repair it, or remove it with what belongs to it') from error
            raise


def unreadable_file(sample: dict) -> str | None:
    """Which file of a sample is broken, and how; None if all are whole.

    Args:
        sample (dict): With paths under ``img_path`` and ``seg_map_path``, as data sets of OpenMMLab describe theirs.
    """
    for key, kind in dict(img_path='image', seg_map_path='label map').items():
        if path := sample.get(key):
            try:
                with Image.open(path) as image:
                    image.load()
            except Exception as error:  # of many kinds, by format and by what is broken
                reason = str(error).partition('\n')[0] or type(error).__name__
                return f'{kind} {path} cannot be read ({reason})'
    return None
