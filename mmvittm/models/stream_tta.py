import torch
from mmpretrain.models import AverageClsScoreTTA
from mmpretrain.structures import DataSample

from ..registry import MODELS


@MODELS.register_module()
class AverageStreamScoreTTA(AverageClsScoreTTA):
    """mmpretrain's mean of the scores over augmented images, for the scores of each stream too."""

    def _merge_single_sample(self, data_samples: list[DataSample]) -> DataSample:
        merged = super()._merge_single_sample(data_samples)
        for name, _ in merged.items():
            if name.startswith('pred_score_'):
                merged.set_field(torch.stack([sample.get(name) for sample in data_samples]).mean(0), name)
        return merged
