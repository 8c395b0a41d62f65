"""A data set wrapper that finds what the image readers pass over, and names the file."""

from collections.abc import Iterator

from mmcv.transforms import Compose as MMCVCompose
from mmcv.transforms import LoadAnnotations, LoadImageFromFile, TestTimeAug
from mmengine.dataset import Compose
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from PIL import Image
from torch.utils.data import Dataset

from ..errors import UserError
from ..registry import DATASETS
from .transforms import Cached, CheckImage, CheckLabels


@DATASETS.register_module()
class CheckedDataset(Dataset):
    """Data set wrapper that names the file of an unreadable image, an unreadable label map or a label without a class.

    It puts :class:`CheckImage` and :class:`CheckLabels` behind the loading transforms of the pipelines.

    Args:
        dataset (dict): Config of the wrapped data set.
        num_classes (int, optional): Number of classes of the model.

    Raises:
        UserError: If the data set has another number of classes.
    """

    def __init__(self, dataset: dict, num_classes: int | None = None) -> None:
        self.dataset = MMENGINE_DATASETS.build(dataset)
        self.metainfo = getattr(self.dataset, 'metainfo', {})
        classes = self.metainfo.get('classes') or ()
        if classes and num_classes and len(classes) != num_classes:
            raise UserError(
                f'the model has {num_classes} classes and the data set {len(classes)} ({", ".join(classes[:8])}'
                f'{", …" if len(classes) > 8 else ""}): make num_classes of the head and the data set agree'
            )
        for part in _parts(self.dataset):
            if isinstance(pipeline := getattr(part, 'pipeline', None), Compose):
                _insert_checks(pipeline, len(classes) or num_classes, getattr(part, 'ignore_index', 255))

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def get_data_info(self, index: int) -> dict:
        """Return what is known of a sample before it is loaded, such as its paths; nothing for classes without it."""
        return self.dataset.get_data_info(index) if hasattr(self.dataset, 'get_data_info') else {}

    def __getitem__(self, index: int) -> dict:
        """Load a sample.

        Raises:
            UserError: If its image or label map cannot be read or does not fit.
        """
        try:
            return self.dataset[index]
        except UserError:
            raise
        except Exception as error:
            if problem := unreadable_file(self.get_data_info(index)):
                raise UserError(f'{problem}: repair it, or remove both image and annotation') from error
            raise


def _parts(dataset: Dataset) -> Iterator[Dataset]:
    """Yield a data set and those inside it, such as those of a ``ConcatDataset``."""
    yield dataset
    inner = getattr(dataset, 'dataset', None)
    for each in getattr(dataset, 'datasets', [] if inner is None else [inner]):
        yield from _parts(each)


def _insert_checks(pipeline: Compose | MMCVCompose, num_classes: int | None, ignore_index: int) -> None:
    checks_labels = any(isinstance(step, CheckLabels) for step in pipeline.transforms)
    for index, step in reversed(list(enumerate(pipeline.transforms))):
        if isinstance(step, TestTimeAug):
            for subroutine in step.subroutines:
                _insert_checks(subroutine, num_classes, ignore_index)
        elif isinstance(step, Cached):
            _insert_checks(step.transforms, num_classes, ignore_index)
        elif isinstance(step, LoadAnnotations) and step.with_seg and not checks_labels:
            # a label map has 8 bits, so 256 classes are all there can be
            pipeline.transforms.insert(index + 1, CheckLabels(num_classes or 256, ignore_index))
        elif isinstance(step, LoadImageFromFile):
            pipeline.transforms.insert(index + 1, CheckImage(step.color_type, step.imdecode_backend))


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
                if kind == 'image' and isinstance(error, Image.DecompressionBombError):
                    continue  # OpenCV reads images that are too large for Pillow
                reason = str(error).partition('\n')[0] or type(error).__name__
                return f'{kind} {path} cannot be read ({reason})'
    return None
