"""Kinds of models: the network that inference runs, and what its outputs mean.

The benchmark times this network and the deployment exports it. A new kind of model is one subclass of :class:`Task`,
listed in :data:`TASKS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmpretrain.apis import ImageClassificationInferencer
from mmpretrain.models import BaseClassifier
from mmseg.apis import inference_model
from mmseg.models import EncoderDecoder
from mmseg.models.segmentors import CascadeEncoderDecoder
from numpy import ndarray
from torch import Tensor, nn

from ..errors import UserError

if TYPE_CHECKING:
    from ..deploy.metadata import ExportMetadata

Size = tuple[int, int]
Palette = Sequence[tuple[int, ...]]
Drawing = tuple[ndarray, list[tuple[tuple[int, ...] | None, str]]]
OPACITY = 0.5


class Task(ABC):
    """One kind of model.

    Its predictions for an image are arrays, such as a label map ``(h, w)`` or class scores ``(K,)``.
    """

    name: str  #: Name in the metadata of exported files.
    model_type: type[BaseModel]  #: Class of the models.
    head_name: str  #: Attribute of a model that holds its head.
    measures: str  #: What the network computes, in words.
    fit: str  #: How images are fitted to an exported network, a key of :data:`mmvittm.deploy.images.FITS`.

    def head(self, model: BaseModel) -> nn.Module:
        head = getattr(model, self.head_name)
        return head[-1] if isinstance(head, nn.ModuleList) else head  # of a cascade, the last one decides

    def strip(self, model: BaseModel) -> None:
        """Remove what inference does not run, or raise a :class:`UserError` if ``model`` is no single network."""
        if getattr(model, 'with_auxiliary_head', False):
            del model.auxiliary_head

    @abstractmethod
    def skip_head(self, model: BaseModel) -> None:
        """Make the head of ``model`` take a list of the network's outputs in place of features."""

    @abstractmethod
    def predict(self, model: BaseModel, image: ndarray) -> ndarray:
        """Predict for an image ``(h, w, 3)``, uint8, BGR, by the test pipeline of ``model.cfg``."""

    @abstractmethod
    def decode(self, outputs: list[ndarray], metadata: 'ExportMetadata', content: Size, size: Size) -> ndarray:
        """Turn an exported network's outputs for B images into B predictions, stacked.

        The images had height and width ``size``, and ``content`` in the network's input, without padding.
        """

    def classes_of(self, predictions: ndarray) -> ndarray:
        """Return the classes that predictions, stacked, decide on: of pixels, or of images."""
        return predictions

    @abstractmethod
    def draw(self, image: ndarray, prediction: ndarray, classes: Sequence[str], palette: Palette) -> Drawing:
        """Return the painted image, BGR as ``image``, and its legend: an RGB colour or None and a text per line."""


class Segmentation(Task):
    """Segmentors of mmseg. Logits ``(B, K, h, w)`` on a coarser grid than the pixels; label maps, uint8."""

    name = 'segmentation'
    model_type = EncoderDecoder
    head_name = 'decode_head'
    measures = 'backbone, neck and decode head on the whole image, without the final upsampling of the logits'
    fit = 'inside'

    def strip(self, model: EncoderDecoder) -> None:
        if isinstance(model, CascadeEncoderDecoder):
            raise UserError(
                'a CascadeEncoderDecoder has several decode heads, which cannot be timed or exported: '
                'choose an EncoderDecoder, or time the backbone only'
            )
        super().strip(model)

    def skip_head(self, model: EncoderDecoder) -> None:
        model.decode_head.forward = lambda outputs: outputs[0]

    def predict(self, model: EncoderDecoder, image: ndarray) -> ndarray:
        return inference_model(model, image).pred_sem_seg.data[0].cpu().numpy().astype(np.uint8)

    def decode(self, outputs: list[ndarray], metadata: 'ExportMetadata', content: Size, size: Size) -> ndarray:
        resize = dict(mode='bilinear', align_corners=metadata.align_corners)
        # in two steps, as mmseg does: the padding is cut off in between
        logits = F.interpolate(torch.from_numpy(outputs[0]), metadata.shape, **resize)
        logits = F.interpolate(logits[..., : content[0], : content[1]], size, **resize)
        return logits.argmax(1).numpy().astype(np.uint8)

    def draw(self, image: ndarray, prediction: ndarray, classes: Sequence[str], palette: Palette) -> Drawing:
        colours = np.array(palette, np.uint8)[prediction][..., ::-1]
        shares = np.bincount(prediction.ravel(), minlength=len(classes)) / prediction.size
        legend = [(palette[k], f'{classes[k]} {shares[k]:.0%}') for k in np.argsort(-shares) if shares[k]]
        return cv2.addWeighted(image, 1 - OPACITY, colours, OPACITY, 0), legend


class Classification(Task):
    """Classifiers of mmpretrain. Logits ``(B, K)``; class scores."""

    name = 'classification'
    model_type = BaseClassifier
    head_name = 'head'
    measures = 'backbone, neck and head on the whole image'
    fit = 'centre'

    def skip_head(self, model: BaseClassifier) -> None:
        head = model.head
        head.predict = lambda outputs, data_samples=None: head._get_predictions(outputs[0], data_samples)

    def predict(self, model: BaseClassifier, image: ndarray) -> ndarray:
        model._config = model.cfg  # where mmpretrain looks for it
        inferencer = ImageClassificationInferencer(model)
        # not `inferencer(image)`, which shows a progress bar for each image
        return inferencer.forward(next(inferencer.preprocess([image])))[0].pred_score.cpu().numpy()

    def decode(self, outputs: list[ndarray], metadata: 'ExportMetadata', content: Size, size: Size) -> ndarray:
        return torch.from_numpy(outputs[0]).softmax(1).numpy()

    def classes_of(self, predictions: ndarray) -> ndarray:
        return predictions.argmax(1)

    def draw(self, image: ndarray, prediction: ndarray, classes: Sequence[str], palette: Palette) -> Drawing:
        return image, [(None, f'{prediction[k]:.0%} {classes[k]}') for k in np.argsort(-prediction)[:5]]


TASKS: dict[str, Task] = {task.name: task for task in (Segmentation(), Classification())}


def task_of(model: nn.Module) -> Task:
    """Return the task of a model, or raise a :class:`UserError` if its type is not supported."""
    for task in TASKS.values():
        if isinstance(model, task.model_type):
            return task
    known = ', '.join(task.model_type.__name__ for task in TASKS.values())
    raise UserError(f'a {type(model).__name__} is not supported: the model must be one of {known}')


class Network(nn.Module):
    """The modules of a model that inference runs, from normalised images ``(B, 3, H, W)`` to logits."""

    output_names = ('logits',)  #: Of exported files.

    def __init__(self, model: BaseModel, task: Task) -> None:
        super().__init__()
        task.strip(model)
        self.model, self.measures = model, task.measures

    def forward(self, images: Tensor) -> Tensor:
        return self.model.forward(images, mode='tensor')


def inference_network(model: nn.Module, backbone_only: bool = False) -> nn.Module:
    """Return what inference runs of ``model``, as a module from one image tensor to raw outputs, in eval mode.

    It takes ``model`` over: modules that inference does not run are removed, and SyncBN, which needs a GPU, becomes
    BN. Its attribute ``measures`` says in words what it computes.

    Raises:
        UserError: If the type of ``model`` is not supported, or ``backbone_only`` is set and it has no backbone.
    """
    task = task_of(model)
    if not backbone_only:
        network = Network(model, task)
    elif isinstance(getattr(model, 'backbone', None), nn.Module):
        network = model.backbone
        network.measures = 'the backbone alone on the whole image'
    else:
        raise UserError(f'a {type(model).__name__} has no backbone to be timed alone')
    network = revert_sync_batchnorm(network)
    network.eval()  # not chained: mmpretrain's backbones return None here
    return network
