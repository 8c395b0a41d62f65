from collections.abc import Sequence
from typing import Any

from mmpretrain.models.heads import ClsHead
from mmpretrain.models.utils import build_norm_layer
from torch import Tensor, nn

from ...errors import UserError
from ...registry import MODELS
from ..builder import positive_int

Tokens = tuple[Tensor, Tensor]  # of process and memory


@MODELS.register_module()
class ViTTMClsHead(ClsHead):
    """Two linear classifiers, one on the mean process token and one on the mean memory token (ViTTM paper).

    Each stream passes through mean over tokens, LayerNorm, dropout and linear layer. The loss is the sum of both
    streams' losses. The backbone needs ``out_stream='tokens'``.

    Args:
        num_classes (int): Number of classes.
        in_channels (int): Width C of the tokens.
        predict_from (str): Prediction that the head returns: 'memory', as the authors report, 'process', or the 'mean'
            of both logits.
        dropout_rate (float): Dropout before the classifiers.
        norm_cfg (dict): Config of the LayerNorms.
        loss (dict): Loss of each classifier.
        topk (int | Sequence[int]): Top-k of the training accuracy.
        cal_acc (bool): Whether to log the training accuracy of every prediction; not with mixup or cutmix, whose
            labels are soft.
        init_cfg (dict, optional): Initialisation config.

    Raises:
        UserError: If ``predict_from`` is unknown, or the backbone returns maps.
    """

    PREDICTIONS = ('memory', 'process', 'mean')

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
        self.num_classes = positive_int('num_classes', num_classes)
        self.predict_from = predict_from
        self.memory_norm = build_norm_layer(norm_cfg, in_channels)
        self.process_norm = build_norm_layer(norm_cfg, in_channels)
        self.dropout = nn.Dropout(dropout_rate)
        self.memory_fc = nn.Linear(in_channels, num_classes)
        self.process_fc = nn.Linear(in_channels, num_classes)

    def pre_logits(self, feats: tuple[Tokens, ...]) -> Tokens:
        """Return the normalised mean process and memory tokens of the last out index, ``(B, C)`` each."""
        if isinstance(feats[-1], Tensor):
            raise UserError("ViTTMClsHead needs the tokens of both streams: set out_stream='tokens' in the backbone")
        process, memory = feats[-1]
        return self.process_norm(process.mean(1)), self.memory_norm(memory.mean(1))

    def stream_logits(self, feats: tuple[Tokens, ...]) -> tuple[Tensor, Tensor]:
        """Return the logits of the process and of the memory classifier, ``(B, num_classes)`` each."""
        process, memory = self.pre_logits(feats)
        return self.process_fc(self.dropout(process)), self.memory_fc(self.dropout(memory))

    def named_logits(self, feats: tuple[Tokens, ...]) -> dict[str, Tensor]:
        """Return the logits of the predictions 'memory', 'process' and 'mean', ``(B, num_classes)`` each."""
        process, memory = self.stream_logits(feats)
        return dict(memory=memory, process=process, mean=(memory + process) / 2)

    def forward(self, feats: tuple[Tokens, ...]) -> Tensor:
        """Return the logits ``(B, num_classes)`` of the prediction ``predict_from``."""
        return self.named_logits(feats)[self.predict_from]

    def loss(self, feats: tuple[Tokens, ...], data_samples: list, **kwargs: Any) -> dict[str, Tensor]:
        """Return ``memory_loss`` and ``process_loss``, and with ``cal_acc`` the accuracy of every prediction."""
        terms = {
            f'{name}_{term}': value
            for name, logits in self.named_logits(feats).items()
            for term, value in self._get_loss(logits, data_samples, **kwargs).items()
        }
        del terms['mean_loss']  # the mean has no classifier of its own to train
        return terms

    def predict(self, feats: tuple[Tokens, ...], data_samples: list | None = None) -> list:
        """Return data samples with the prediction ``predict_from`` and the scores of each as ``pred_score_<name>``."""
        logits = self.named_logits(feats)
        data_samples = self._get_predictions(logits[self.predict_from], data_samples)
        for name, each in logits.items():
            for data_sample, scores in zip(data_samples, each.softmax(1), strict=True):
                data_sample.set_field(scores, f'pred_score_{name}')
        return data_samples
