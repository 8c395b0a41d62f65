import numpy as np
from mmcv.transforms import BaseTransform

from ..errors import UserError
from ..registry import TRANSFORMS


@TRANSFORMS.register_module()
class CheckLabels(BaseTransform):
    """Raise an error at a label without a class, and name its file.

    Without this check, such a label fails in the loss, with an index error or a CUDA assertion that names no file.
    Place it right after ``LoadAnnotations``, so that it sees labels after ``reduce_zero_label`` and ``label_map``.

    Required Keys:

    - gt_seg_map (np.ndarray): Label map of shape ``(H, W)``.
    - seg_map_path (str)

    Args:
        num_classes (int): Number of classes. Labels 0 to ``num_classes - 1`` are allowed.
        ignore_index (int): The only other label that is allowed. Defaults to 255.

    Raises:
        UserError: If ``num_classes`` is not a positive integer, a label is not allowed, or there is no label map.
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
        # Two comparisons per pixel; np.unique is slow and needed for the message only.
        allowed = (labels < self.num_classes) | (labels == self.ignore_index)
        if labels.dtype.kind != 'u':
            allowed &= (labels >= 0) | (labels == self.ignore_index)
        if not allowed.all():
            raise UserError(self._sentence(results, np.unique(labels[~allowed])))
        return results

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
