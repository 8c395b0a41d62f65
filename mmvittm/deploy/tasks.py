"""What segmentors and classifiers need to be exported, checked and used; a new kind of model is a new row."""

from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from mmpretrain.models import BaseClassifier
from mmseg.models import EncoderDecoder
from torch import Tensor, nn

from ..errors import UserError
from .metadata import ModelCard, Size


class Task(ABC):
    """One kind of model.

    Attributes:
        name (str): What a :class:`ModelCard` calls it.
        model_type (type): The class of its models.
        fit (str): How images come to the shape of an exported network.
    """

    name: str
    model_type: type[nn.Module]
    fit: str

    @abstractmethod
    def head(self, model: nn.Module) -> nn.Module:
        """The module whose output is the exported network's."""

    @abstractmethod
    def pass_logits(self, model: nn.Module) -> None:
        """Let the head of ``model`` take logits for features and hand them on."""

    @abstractmethod
    def choices(self, logits: np.ndarray, card: ModelCard) -> np.ndarray:
        """The chosen class, of each pixel of the input ``(B, H, W)`` or of each image ``(B,)``."""

    @abstractmethod
    def decide(self, logits: np.ndarray, card: ModelCard, content: Size, size: Size) -> np.ndarray:
        """The result for an image.

        Args:
            logits (np.ndarray): ``(1, K, …)``, of a network that was fed with the image.
            card (ModelCard): The network's.
            content (tuple[int, int]): Height and width of the image in the network's input.
            size (tuple[int, int]): Its own height and width.

        Returns:
            np.ndarray: Label map ``(*size)`` of a segmentor, uint8; scores ``(K,)`` of a classifier.
        """

    @abstractmethod
    def result(self, sample) -> np.ndarray:
        """The same from what ``model.test_step`` gives."""


class Segmentation(Task):
    """Segmentors of mmseg; networks give logits ``(B, K, h, w)`` on a coarser grid than the pixels'."""

    name = 'segmentation'
    model_type = EncoderDecoder
    fit = 'inside'

    def head(self, model: EncoderDecoder) -> nn.Module:
        return model.decode_head

    def pass_logits(self, model: EncoderDecoder) -> None:
        model.decode_head.forward = lambda logits: logits

    def choices(self, logits: np.ndarray, card: ModelCard) -> np.ndarray:
        return _resized(torch.from_numpy(logits), card.shape, card).argmax(1).numpy().astype(np.uint8)

    def decide(self, logits: np.ndarray, card: ModelCard, content: Size, size: Size) -> np.ndarray:
        # in two steps as mmseg does, since padding must go before the second
        whole = _resized(torch.from_numpy(logits), card.shape, card)
        return _resized(whole[..., : content[0], : content[1]], size, card)[0].argmax(0).numpy().astype(np.uint8)

    def result(self, sample) -> np.ndarray:
        return sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8)


class Classification(Task):
    """Classifiers of mmpretrain; networks give logits ``(B, K)``."""

    name = 'classification'
    model_type = BaseClassifier
    fit = 'centre'

    def head(self, model: BaseClassifier) -> nn.Module:
        return model.head

    def pass_logits(self, model: BaseClassifier) -> None:
        model.head.predict = model.head._get_predictions

    def choices(self, logits: np.ndarray, card: ModelCard) -> np.ndarray:
        return logits.argmax(1)

    def decide(self, logits: np.ndarray, card: ModelCard, content: Size, size: Size) -> np.ndarray:
        return torch.from_numpy(logits)[0].softmax(0).numpy()

    def result(self, sample) -> np.ndarray:
        return sample.pred_score.cpu().numpy()


TASKS: dict[str, Task] = {task.name: task for task in (Segmentation(), Classification())}


def task_of(model: nn.Module) -> Task:
    """The task of a model.

    Raises:
        UserError: If it is of no kind that can be exported.
    """
    for task in TASKS.values():
        if isinstance(model, task.model_type):
            return task
    known = ', '.join(task.model_type.__name__ for task in TASKS.values())
    raise UserError(f'a {type(model).__name__} cannot be exported: the model must be one of {known}')


def _resized(logits: Tensor, size: Size, card: ModelCard) -> Tensor:
    return F.interpolate(logits, size=size, mode='bilinear', align_corners=card.align_corners)
