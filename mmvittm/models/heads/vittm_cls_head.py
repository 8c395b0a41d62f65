from collections.abc import Sequence

from mmpretrain.models.heads import ClsHead
from mmpretrain.models.utils import build_norm_layer
from torch import Tensor, nn

from ...errors import UserError
from ...registry import MODELS

TokenPair = tuple[Tensor, Tensor]


@MODELS.register_module()
class ViTTMClsHead(ClsHead):
    """Two linear classifiers, one on the mean memory token and one on the mean process token (ViTTM paper).

    Each stream: mean over tokens, LayerNorm, dropout, linear. Both are trained, with the sum of their losses. It needs
    a backbone with ``out_stream='tokens'``.

    Args:
        num_classes (int): Number of classes.
        in_channels (int): C, the width of the tokens.
        predict_from (str): Whose logits count: 'memory', as the authors report, 'process', or their 'mean'.
        dropout_rate (float): Dropout before the classifiers.
        norm_cfg (dict): Config of the LayerNorms.
        loss (dict): Loss of each classifier.
        topk (int | Sequence[int]): Top-k of the accuracy logged in training.
        cal_acc (bool): Whether to log that accuracy, of each prediction; not with mixup or cutmix, whose labels are
            soft.
        init_cfg (dict, optional): Initialisation config.

    Raises:
        UserError: If ``predict_from`` is unknown, or the backbone hands out maps.
    """

    #: The logits of memory and process classifier -> those that count.
    PREDICTIONS = dict(
        memory=lambda memory, process: memory,
        process=lambda memory, process: process,
        mean=lambda memory, process: (memory + process) / 2,
    )

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        predict_from: str = 'memory',
        dropout_rate: float = 0.0,
        norm_cfg: dict = dict(type='LN', eps=1e-6),
        loss: dict = dict(type='CrossEntropyLoss', loss_weight=1.0),
        topk: int | Sequence[int] = (1,),
        cal_acc: bool = False,
        init_cfg: dict | None = dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0),
    ) -> None:
        super().__init__(loss=loss, topk=topk, cal_acc=cal_acc, init_cfg=init_cfg)
        if predict_from not in self.PREDICTIONS:
            raise UserError(f'unknown predict_from {predict_from!r}: choose one of {", ".join(self.PREDICTIONS)}')
        self.num_classes = num_classes
        self.predict_from = predict_from
        self.memory_norm = build_norm_layer(norm_cfg, in_channels)
        self.process_norm = build_norm_layer(norm_cfg, in_channels)
        self.dropout = nn.Dropout(dropout_rate)
        self.memory_fc = nn.Linear(in_channels, num_classes)
        self.process_fc = nn.Linear(in_channels, num_classes)

    def pre_logits(self, feats: tuple[TokenPair, ...]) -> TokenPair:
        """Mean tokens of the last out index, normalised: memory ``(B, C)`` and process ``(B, C)``."""
        if isinstance(feats[-1], Tensor):
            raise UserError("ViTTMClsHead takes tokens of both streams: set out_stream='tokens' in the backbone")
        process, memory = feats[-1]
        return self.memory_norm(memory.mean(1)), self.process_norm(process.mean(1))

    def stream_logits(self, feats: tuple[TokenPair, ...]) -> TokenPair:
        """Logits of the memory and of the process classifier, each ``(B, num_classes)``."""
        memory, process = self.pre_logits(feats)
        return self.memory_fc(self.dropout(memory)), self.process_fc(self.dropout(process))

    def named_logits(self, feats: tuple[TokenPair, ...]) -> dict[str, Tensor]:
        """Every prediction by name, 'memory', 'process' and 'mean', each ``(B, num_classes)``."""
        streams = self.stream_logits(feats)
        return {name: combine(*streams) for name, combine in self.PREDICTIONS.items()}

    def forward(self, feats: tuple[TokenPair, ...]) -> Tensor:
        """The logits ``(B, num_classes)`` that ``predict_from`` names."""
        return self.PREDICTIONS[self.predict_from](*self.stream_logits(feats))

    def loss(self, feats: tuple[TokenPair, ...], data_samples: list, **kwargs) -> dict[str, Tensor]:
        """``memory_loss`` and ``process_loss``, which add up, and if asked for the accuracy of every prediction."""
        terms = {
            f'{name}_{term}': value
            for name, logits in self.named_logits(feats).items()
            for term, value in self._get_loss(logits, data_samples, **kwargs).items()
        }
        del terms['mean_loss']  # a prediction without a classifier of its own to train
        return terms

    def predict(self, feats: tuple[TokenPair, ...], data_samples: list | None = None) -> list:
        """Data samples with the prediction that counts, and the scores of each as ``pred_score_<name>``."""
        logits = self.named_logits(feats)
        data_samples = self._get_predictions(logits[self.predict_from], data_samples)
        for name, each in logits.items():
            for data_sample, scores in zip(data_samples, each.softmax(1), strict=True):
                data_sample.set_field(scores, f'pred_score_{name}')
        return data_samples
