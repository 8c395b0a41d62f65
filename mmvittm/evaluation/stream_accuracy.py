from collections.abc import Sequence
from typing import Any

from mmpretrain.evaluation import Accuracy

from ..registry import METRICS


@METRICS.register_module()
class StreamAccuracy(Accuracy):
    """Accuracy of the prediction from one stream of a :class:`mmvittm.models.ViTTMClsHead`.

    It is logged as ``<stream>/top1``. mmpretrain's ``accuracy/top1`` is that of the stream ``predict_from``.

    Args:
        stream (str): 'memory', 'process' or 'mean'.
        **kwargs: See mmpretrain's Accuracy, for example ``topk``.
    """

    def __init__(self, stream: str, **kwargs: Any) -> None:
        super().__init__(prefix=stream, **kwargs)
        self.stream = stream

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        """Process a batch of predictions with scores ``pred_score_<stream>`` of shape ``(num_classes,)``."""
        key = f'pred_score_{self.stream}'
        super().process(data_batch, [{**sample, 'pred_score': sample[key]} for sample in data_samples])
