"""Errors that name the unreadable image or label map; those of the image readers often do not."""

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from PIL import Image
from torch.utils.data import Dataset

from ..errors import UserError
from ..registry import DATASETS


@DATASETS.register_module()
class UnreadableFileGuard(Dataset):
    """A data set wrapper that names the unreadable file in the error, for validation and testing.

    Args:
        dataset (dict): Config of the wrapped data set.
    """

    def __init__(self, dataset: dict) -> None:
        self.dataset = MMENGINE_DATASETS.build(dataset)
        self.metainfo = getattr(self.dataset, 'metainfo', {})

    def __len__(self) -> int:
        """Return the number of samples."""
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
                raise UserError(f'{problem}: repair it, or remove both image and annotation') from error
            raise


def unreadable_file(sample: dict) -> str | None:
    """Return a description of the first unreadable file of a sample, or None if all can be read.

    Args:
        sample (dict): With paths under ``img_path`` and ``seg_map_path``, as in the data sets of OpenMMLab.
    """
    for key, kind in dict(img_path='image', seg_map_path='label map').items():
        if path := sample.get(key):
            try:
                with Image.open(path) as image:
                    image.load()
            except Exception as error:  # Pillow raises many types
                reason = str(error).partition('\n')[0] or type(error).__name__
                return f'{kind} {path} cannot be read ({reason})'
    return None
