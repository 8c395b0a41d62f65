from .class_iou_metric import ClassIoUMetric
from .stream_accuracy import StreamAccuracy

__all__ = ['ClassIoUMetric', 'StreamAccuracy']
