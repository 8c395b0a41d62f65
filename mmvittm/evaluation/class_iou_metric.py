from mmseg.evaluation.metrics import IoUMetric

from ..registry import METRICS


@METRICS.register_module()
class ClassIoUMetric(IoUMetric):
    """mmseg's IoUMetric, which also returns the IoU of each class, as ``IoU.<class>`` in percent."""

    default_prefix = ''  # mmengine warns about None

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the metrics over the data set.

        Args:
            results (list): For each image, the areas of intersection, union, prediction and label by class.

        Returns:
            dict[str, float]: The metrics of IoUMetric (aAcc, mIoU, mAcc, …) and ``IoU.<class>``, nan for a class that
            neither occurs nor is predicted.
        """
        metrics = super().compute_metrics(results)
        if not self.format_only:
            intersect, union = (sum(areas) for areas in list(zip(*results, strict=True))[:2])
            iou = (100 * intersect / union).tolist()
            metrics |= {f'IoU.{name}': round(x, 2) for name, x in zip(self.dataset_meta['classes'], iou, strict=True)}
        return metrics
