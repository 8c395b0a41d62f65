"""Prediction for images, by a config and its checkpoint or by an exported file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import is_model_wrapper
from torch import nn

from ..apis.config import build_model, load_config
from ..apis.config_errors import in_scope
from ..apis.data import innermost_datasets
from ..apis.tasks import TASKS, Palette, Task, task_of
from ..errors import UserError
from ..weights import load_weights
from .base import Session
from .formats import FORMATS, format_of
from .images import prepare
from .metadata import ExportMetadata, class_names


@dataclass(frozen=True)
class Predictor:
    """A model that is ready for images."""

    task: Task
    classes: Sequence[str]
    palette: Palette  #: RGB colour of each class.
    predict: Callable[[np.ndarray], np.ndarray]  #: From an image ``(h, w, 3)``, uint8, BGR, to the task's prediction.
    model: nn.Module | None = None  #: The model, with the config that it runs images by in ``model.cfg``; eager only.


def load_predictor(model: Path, checkpoint: Path | None = None, device: torch.device | str = 'cpu') -> Predictor:
    """Load a config and its checkpoint to run on ``device``, or an exported file, which runs on the CPU.

    Raises:
        UserError: If a file cannot be used, a config comes without checkpoint, or an exported file with one or with
            another device than the CPU.
    """
    exported = model.suffix in {format.suffix for format in FORMATS.values()}
    if exported and checkpoint:
        raise UserError(f'{model} is an exported model and has its weights: leave out the checkpoint {checkpoint}')
    if not exported and not checkpoint:
        raise UserError(f'the config {model} needs a checkpoint: give it after the config')
    if not exported:
        return eager_predictor(model, checkpoint, device)
    if torch.device(device).type != 'cpu':
        raise UserError(f'{model} is an exported model, which runs on the CPU: leave out the device {device}')
    return exported_predictor(model)


def exported_predictor(path: Path) -> Predictor:
    """Load a file that ``tools/deployment/export.py`` wrote."""
    session, metadata = load_exported(path)
    task = TASKS[metadata.task]

    def predict(image: np.ndarray) -> np.ndarray:
        inputs, content = prepare(image, metadata)
        try:
            outputs = session(inputs[None])
        except Exception as error:  # the runtimes' exceptions have no other base in common
            raise UserError(f'{path} does not run on its own shape {metadata.shape}: export it again') from error
        if outputs[0].shape[1] != len(metadata.classes):
            numbers = outputs[0].shape[1], len(metadata.classes)
            raise UserError(f'{path} has {numbers[0]} logits for {numbers[1]} classes: export it again')
        return task.decode(outputs, metadata, content, image.shape[:2])[0]

    return Predictor(task, metadata.classes, metadata.palette, predict)


def eager_predictor(config: Path, checkpoint: Path, device: torch.device | str = 'cpu') -> Predictor:
    """Load a config and its checkpoint; images pass through the config's test pipeline."""
    cfg = load_config(config)
    model, dataset_meta = load_model(cfg, checkpoint)
    model.to(device).cfg = _without_annotations(cfg)
    task = task_of(model)

    def predict(image: np.ndarray) -> np.ndarray:
        with in_scope(cfg):
            return task.predict(model, image)

    return Predictor(task, **class_names(cfg, task.head(model), dataset_meta), predict=predict, model=model)


def load_exported(path: Path, dtype: str | None = None) -> tuple[Session, ExportMetadata]:
    """Load an exported file to compute in ``dtype``, by default the one it was exported for."""
    session = format_of(path).load(path, dtype)
    return session, ExportMetadata.from_dict(session.metadata, path)


def load_model(cfg: Config, checkpoint: Path | None) -> tuple[nn.Module, dict]:
    """Build the model of a config in eval mode, with the weights of ``checkpoint`` or random ones.

    Returns:
        tuple: The model, and the checkpoint's ``meta['dataset_meta']``, empty if it has none.

    Raises:
        UserError: If the model cannot be built or the checkpoint does not fit it.
    """
    model = build_model(cfg)
    model.eval()
    stored = load_weights(model, checkpoint) if checkpoint else {}
    dataset_meta = (stored.get('meta') or {}).get('dataset_meta')
    return model, dataset_meta if isinstance(dataset_meta, dict) else {}


def run_exported(model: nn.Module, session: Session, metadata: ExportMetadata) -> None:
    """Let ``session`` compute the outputs of ``model``; preprocessing and postprocessing remain the model's own.

    The model raises a :class:`UserError` for images of another size than the session's.
    """

    def extract_feat(inputs: torch.Tensor, *args: object, **kwargs: object) -> list[torch.Tensor]:
        if tuple(inputs.shape[2:]) != metadata.shape:
            needed, given = ('×'.join(map(str, size)) for size in (metadata.shape, inputs.shape[2:]))
            raise UserError(f'the exported model takes images of {needed}, not {given}: export it for that size')
        return [torch.from_numpy(output).to(inputs.device) for output in session(inputs.cpu().numpy())]

    model = model.module if is_model_wrapper(model) else model
    model.extract_feat = extract_feat
    task_of(model).skip_head(model)


def _without_annotations(cfg: Config) -> Config:
    """Return the config with a test pipeline that loads no annotations, where mmseg and mmpretrain look for it."""
    dataset = next(innermost_datasets(cfg.test_dataloader.dataset)) if cfg.get('test_dataloader') else {}
    pipeline = dataset.get('pipeline') or cfg.get('test_pipeline')
    if not pipeline:
        raise UserError(f'config {cfg.filename} has no test_dataloader or test_pipeline, which prepares images')
    cfg = cfg.copy()
    steps = [step for step in pipeline if 'Annotation' not in str(step['type'])]
    cfg.test_pipeline = steps
    cfg.test_dataloader = dict(dataset=dict(pipeline=steps))
    return cfg
