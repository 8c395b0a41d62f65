"""From a picture to a label map or scores, by a config and its checkpoint or by an exported file."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope
from torch import nn

from ..apis.config import build_model, load_config
from ..apis.data import innermost_datasets
from ..errors import UserError
from ..weights.loading import load_checkpoint_file, weights_of
from ..weights.mismatch import describe_mismatch
from .base import Session
from .formats import FORMATS, format_of
from .metadata import ModelCard, class_names
from .preprocess import prepare
from .tasks import TASKS, Task, task_of


class Predictor(ABC):
    """A model behind ``predictor(image)``.

    Attributes:
        task (Task): What it does.
        classes (Sequence[str]): What it tells apart.
        palette (Sequence[tuple[int, int, int]]): RGB colour of each class.
    """

    task: Task
    classes: Sequence[str]
    palette: Sequence[tuple[int, ...]]

    @abstractmethod
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The result for an image.

        Args:
            image (np.ndarray): ``(h, w, 3)``, uint8, BGR as OpenCV reads it, of any size.

        Returns:
            np.ndarray: Of a segmentor the label map ``(h, w)``, of a classifier the scores ``(K,)``.
        """


class ExportedPredictor(Predictor):
    """A file that ``tools/deployment/export.py`` wrote; it needs neither config nor checkpoint.

    Raises:
        UserError: If the file cannot be used.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.session = format_of(path).load(path, threads=threads)
        self.card = ModelCard.from_dict(self.session.metadata, path)
        self.task = TASKS[self.card.task]
        self.classes, self.palette = self.card.classes, self.card.palette

    def __call__(self, image: np.ndarray) -> np.ndarray:
        inputs, content = prepare(image, self.card)
        return self.task.decide(self.session(inputs[None])[0], self.card, content, image.shape[:2])


class EagerPredictor(Predictor):
    """A config and a checkpoint; images go through the config's test pipeline.

    Raises:
        UserError: If one of them cannot be used.
    """

    def __init__(self, config: Path, checkpoint: Path) -> None:
        cfg = load_config(config)
        self.model, meta = load_model(cfg, checkpoint)
        self.task = task_of(self.model)
        names = class_names(cfg, meta, num_classes(self.model, self.task))
        self.classes, self.palette = names['classes'], names['palette']
        self._pipeline = _pipeline(cfg)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        size = image.shape[:2]
        inputs = self._pipeline(dict(img=image, img_shape=size, ori_shape=size, img_path=None))
        with torch.inference_mode():
            return self.task.result(self.model.test_step(pseudo_collate([inputs]))[0])


def predictor(model: Path, checkpoint: Path | None = None) -> Predictor:
    """The predictor for what a user names: a config and a checkpoint, or an exported file alone.

    Raises:
        UserError: If these do not go together or cannot be used.
    """
    exported = model.suffix in {format.suffix for format in FORMATS.values()}
    if exported and checkpoint:
        raise UserError(f'{model} is an exported model and has its weights: leave the checkpoint {checkpoint} out')
    if not exported and not checkpoint:
        raise UserError(f'the config {model} needs a checkpoint behind it')
    return ExportedPredictor(model) if exported else EagerPredictor(model, checkpoint)


def load_model(cfg: Config, checkpoint: Path | None) -> tuple[nn.Module, dict]:
    """Build a config's model in eval mode.

    Args:
        cfg (Config): The config.
        checkpoint (Path, optional): Its weights; without, they are random.

    Returns:
        tuple: The model, and the checkpoint's entry ``meta``, empty if it has none.

    Raises:
        UserError: If the model cannot be built or the checkpoint does not fit it.
    """
    model = build_model(cfg)
    model.eval()
    if checkpoint is None:
        return model, {}
    stored = load_checkpoint_file(checkpoint)
    if problem := describe_mismatch(model, weights_of(stored)):
        raise UserError(f'checkpoint {checkpoint} does not fit the model: {problem}')
    model.load_state_dict(weights_of(stored))
    return model, stored.get('meta') or {}


def num_classes(model: nn.Module, task: Task) -> int:
    """How many classes a model tells apart.

    Raises:
        UserError: If it gives a single logit for two classes.
    """
    head = task.head(model)
    if getattr(head, 'out_channels', None) == 1:
        raise UserError('a head of a single logit for two classes is not supported: give it out_channels=2')
    return head.num_classes


def run_exported(model: nn.Module, session: Session, card: ModelCard) -> None:
    """Let ``session`` compute all of ``model`` up to its logits; preprocessing and metrics stay the model's own.

    The model raises a :class:`UserError` on images of another size than the session's.
    """

    def extract_feat(inputs: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        if tuple(inputs.shape[2:]) != card.shape:
            needed, given = ('×'.join(map(str, size)) for size in (card.shape, inputs.shape[2:]))
            raise UserError(f'the exported model takes images of {needed} and got {given}: export it for that size')
        return torch.from_numpy(session(inputs.numpy())[0])

    model.extract_feat = extract_feat
    task_of(model).pass_logits(model)


def _pipeline(cfg: Config) -> Compose:
    """The test pipeline without the steps that read files."""
    loader = cfg.get('test_dataloader')
    if not loader:
        raise UserError(f'config {cfg.filename} has no test_dataloader, whose pipeline would tell how to treat images')
    steps = next(innermost_datasets(loader['dataset'])).get('pipeline', [])
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        return Compose([step for step in steps if not step['type'].rpartition('.')[2].startswith('Load')])
