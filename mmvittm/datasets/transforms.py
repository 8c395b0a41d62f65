import copy

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.dataset import Compose
from PIL import ExifTags, Image

from ..errors import UserError
from ..registry import TRANSFORMS


@TRANSFORMS.register_module()
class CheckImage(BaseTransform):
    """Raise an error at an image of more than 8 bits per channel, which the loader would shorten.

    :class:`~mmvittm.datasets.CheckedDataset` places it after ``LoadImageFromFile``.

    Required Keys:

    - img_path (str)

    Added Keys:

    - exif_orientation (int): The EXIF orientation by which the loader turned the image; 1 means upright.

    Args:
        color_type (str): That of ``LoadImageFromFile``.
        imdecode_backend (str): That of ``LoadImageFromFile``.

    Raises:
        UserError: If the image has more than 8 bits per channel and the loader reads 8.
    """

    def __init__(self, color_type: str = 'color', imdecode_backend: str = 'cv2') -> None:
        self.reads_8_bits = imdecode_backend in ('cv2', 'pillow') and color_type != 'unchanged'
        self.turns = self.reads_8_bits and not color_type.endswith('ignore_orientation')

    def transform(self, results: dict) -> dict:
        """Check the file of ``results['img_path']``."""
        try:
            with Image.open(results['img_path']) as image:
                bits, orientation = _bits(image), _orientation(image)
        except (KeyError, OSError, Image.DecompressionBombError):  # not a file that Pillow knows, or too large for it
            return results
        if self.reads_8_bits and bits > 8:
            raise UserError(f'image {results["img_path"]} has {bits} bits per channel: convert it to 8')
        results['exif_orientation'] = orientation if self.turns else 1
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(reads_8_bits={self.reads_8_bits}, turns={self.turns})'


def _bits(image: Image.Image) -> int:
    """Return the bits per channel of an image that Pillow has opened: 8, 16 or 32."""
    raw = image.tile[0][3] if image.tile else ''  # 'RGB;16B' of a PNG that Pillow itself reads as 8 bits
    raw = raw[0] if isinstance(raw, tuple) else raw
    return 32 if image.mode in 'IF' else 16 if '16' in f'{image.mode}{raw}' else 8


def _orientation(image: Image.Image) -> int:
    if image.format == 'PNG' and 'exif' not in image.info:
        return 1  # getexif() would decode the image
    return image.getexif().get(ExifTags.Base.Orientation, 1)


@TRANSFORMS.register_module()
class CheckLabels(BaseTransform):
    """Raise an error at a label without a class or a label map that does not fit its image, and name its file.

    Without this check, such a label fails in the loss, with an index error or a CUDA assertion that names no file, and
    in validation it does not even fail. :class:`~mmvittm.datasets.CheckedDataset` places the check right after
    ``LoadAnnotations``, where it sees labels after ``reduce_zero_label`` and ``label_map``.

    Required Keys:

    - gt_seg_map (np.ndarray): Label map of shape ``(H, W)``.
    - seg_map_path (str)
    - ori_shape, img_path, exif_orientation (optional): See :class:`CheckImage`.

    Args:
        num_classes (int): Number of classes. Labels 0 to ``num_classes - 1`` are allowed.
        ignore_index (int): The only other label that is allowed. Defaults to 255.

    Raises:
        UserError: If ``num_classes`` is not a positive integer, a label is not allowed, there is no label map, or it
            has several channels or another size than the image.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255):
        if not isinstance(num_classes, int) or num_classes < 1:
            raise UserError(f'num_classes of CheckLabels must be a positive integer, not {num_classes!r}')
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def transform(self, results: dict) -> dict:
        """Check ``results`` and return them unchanged."""
        labels = results.get('gt_seg_map')
        if labels is None:
            raise UserError('CheckLabels found no label map: place it after LoadAnnotations in the pipeline')
        self._check_file(results)
        self._check_shape(results, labels.shape)
        # Two comparisons per pixel; np.unique is slow and needed for the message only.
        allowed = (labels < self.num_classes) | (labels == self.ignore_index)
        if labels.dtype.kind != 'u':
            allowed &= (labels >= 0) | (labels == self.ignore_index)
        if not allowed.all():
            raise UserError(self._sentence(results, np.unique(labels[~allowed])))
        return results

    @staticmethod
    def _check_file(results: dict) -> None:
        """Check the labels of a file of 16 or 32 bits, which LoadAnnotations takes modulo 256."""
        try:
            with Image.open(results['seg_map_path']) as image:
                labels = np.asarray(image) if _bits(image) > 8 else np.zeros(1)
        except (KeyError, OSError, Image.DecompressionBombError):
            return
        if wrong := labels[(labels < 0) | (labels > 255) | (labels % 1 != 0)].tolist():
            raise UserError(f'{results["seg_map_path"]} has label {wrong[0]}: labels must be whole numbers up to 255')

    @staticmethod
    def _check_shape(results: dict, shape: tuple[int, ...]) -> None:
        name, size = results.get('seg_map_path', 'An annotation'), results.get('ori_shape', shape)[:2]
        turned = results.get('exif_orientation', 1)
        exif = f', turned by its EXIF orientation {turned}' * (turned != 1)
        if len(shape) > 2:
            raise UserError(f'{name} has {shape[2]} channels: a label map has one, with the index of the class')
        if shape != tuple(size):
            sizes = ['×'.join(map(str, each)) for each in (shape, size)]
            raise UserError(f'{name} has {sizes[0]} pixels and its image {sizes[1]}{exif}: make them agree')
        if turned != 1 and (turned < 5 or shape[0] == shape[1]):
            raise UserError(
                f'image {results["img_path"]} is turned by its EXIF orientation {turned}, and its size does not tell '
                'whether its label map is turned too: store both upright, without EXIF orientation'
            )

    def _sentence(self, results: dict, offending: np.ndarray) -> str:
        shown = ', '.join(str(label) for label in offending[:8]) + (', …' if len(offending) > 8 else '')
        reduced = results.get('reduce_zero_label', False)
        return (
            f'{results.get("seg_map_path", "An annotation")} has label{"s" * (len(offending) > 1)} {shown}'
            f'{" after reduce_zero_label" if reduced else ""}, outside 0 to {self.num_classes - 1} '
            f'(or {self.ignore_index}, ignored): correct the file, num_classes or reduce_zero_label (now {reduced})'
        )

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_classes={self.num_classes}, ignore_index={self.ignore_index})'


@TRANSFORMS.register_module()
class Cached(BaseTransform):
    """Run transforms once on each image and keep the results in memory, for data sets of few large images.

    The arrays are read-only, and other values are copied, so that a later transform cannot change them in place.

    Required Keys:

    - img_path (str)

    Args:
        transforms (list[dict]): Transforms without randomness, such as loading and resizing.
    """

    def __init__(self, transforms: list[dict]) -> None:
        self.transforms = Compose(transforms)
        self._cache: dict[str, dict] = {}

    def transform(self, results: dict) -> dict:
        """Replace ``results`` by those after the transforms."""
        path = results['img_path']
        if path not in self._cache:
            self._cache[path] = self.transforms(results)
            for value in self._cache[path].values():
                if isinstance(value, np.ndarray):
                    value.flags.writeable = False
        cached = self._cache[path].items()
        return {key: value if isinstance(value, np.ndarray) else copy.deepcopy(value) for key, value in cached}

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.transforms})'


@TRANSFORMS.register_module()
class RandomRoll(BaseTransform):
    """Roll image and labels by a random number of columns, for maps of a whole globe, which are periodic in longitude.

    Required and modified keys:

    - img (np.ndarray): Image ``(H, W, 3)``.
    - gt_seg_map (np.ndarray): Label map ``(H, W)``.

    Args:
        prob (float): Probability of rolling.
    """

    def __init__(self, prob: float = 1.0) -> None:
        if not 0 <= prob <= 1:
            raise UserError(f'RandomRoll needs a probability between 0 and 1, not {prob!r}')
        self.prob = prob

    def transform(self, results: dict) -> dict:
        """Roll ``img`` and ``gt_seg_map``."""
        if np.random.rand() < self.prob:
            shift = np.random.randint(results['img'].shape[1])
            for key in ('img', 'gt_seg_map'):
                results[key] = np.roll(results[key], shift, 1)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob})'
