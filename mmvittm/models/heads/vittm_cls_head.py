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
        cal_acc (bool): Whether to log that accuracy, of each stream.
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

    def forward(self, feats: tuple[TokenPair, ...]) -> Tensor:
        """The logits ``(B, num_classes)`` that ``predict_from`` names."""
        return self.PREDICTIONS[self.predict_from](*self.stream_logits(feats))

    def loss(self, feats: tuple[TokenPair, ...], data_samples: list, **kwargs) -> dict[str, Tensor]:
        """Losses, and accuracies if asked for, of each stream: ``memory_loss``, ``process_loss``, …; the losses add."""
        streams = zip(('memory', 'process'), self.stream_logits(feats), strict=True)
        return {
            f'{stream}_{name}': value
            for stream, logits in streams
            for name, value in self._get_loss(logits, data_samples, **kwargs).items()
        }
