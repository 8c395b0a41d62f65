from collections.abc import Sequence

from mmpretrain.evaluation import Accuracy

from ..registry import METRICS


@METRICS.register_module()
class StreamAccuracy(Accuracy):
    """Accuracy of one of the predictions of a :class:`mmvittm.models.ViTTMClsHead`, whichever ``predict_from`` names.

    It is logged as ``<stream>/top1``, beside mmpretrain's ``accuracy/top1`` of the prediction that counts.

    Args:
        stream (str): 'memory', 'process' or 'mean'.
        **kwargs: Arguments of mmpretrain's Accuracy, for instance ``topk``.
    """

    def __init__(self, stream: str, **kwargs) -> None:
        super().__init__(prefix=stream, **kwargs)
        self.stream = stream

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        """Take in a batch of predictions, each with the scores ``pred_score_<stream>`` of shape ``(num_classes,)``."""
        key = f'pred_score_{self.stream}'
        super().process(data_batch, [{**sample, 'pred_score': sample[key]} for sample in data_samples])
