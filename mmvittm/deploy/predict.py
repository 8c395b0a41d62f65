"""Prediction for images by an exported file."""

from pathlib import Path

import numpy as np
import torch
from mmengine.model import is_model_wrapper
from torch import nn

from ..apis.inference import Predictor, eager_predictor
from ..apis.tasks import TASKS, task_of
from ..errors import UserError
from .base import Session
from .formats import FORMATS, format_of
from .images import prepare
from .metadata import ExportMetadata


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
    """Load a file that ``tools/deployment/export.py`` wrote.

    Raises:
        UserError: If the file cannot be used or says too little about itself.
    """
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


def load_exported(path: Path, dtype: str | None = None) -> tuple[Session, ExportMetadata]:
    """Load an exported file to compute in ``dtype``, by default the one it was exported for.

    Raises:
        UserError: If the file cannot be used, says too little about itself, or cannot compute in ``dtype``.
    """
    session = format_of(path).load(path, dtype)
    return session, ExportMetadata.from_dict(session.metadata, path)


def run_exported(model: nn.Module, session: Session, metadata: ExportMetadata) -> None:
    """Let ``session`` compute the outputs of ``model``; preprocessing and postprocessing remain the model's own.

    The model raises a :class:`UserError` for images of another size than the session's.

    Raises:
        UserError: If the exported model has another task or number of classes.
    """

    def extract_feat(inputs: torch.Tensor, *args: object, **kwargs: object) -> list[torch.Tensor]:
        if tuple(inputs.shape[2:]) != metadata.shape:
            needed, given = ('×'.join(map(str, size)) for size in (metadata.shape, inputs.shape[2:]))
            raise UserError(f'the exported model takes images of {needed}, not {given}: export it for that size')
        return [torch.from_numpy(output).to(inputs.device) for output in session(inputs.cpu().numpy())]

    model = model.module if is_model_wrapper(model) else model
    task = task_of(model)
    given = (metadata.task, len(metadata.classes))
    needed = (task.name, getattr(task.head(model), 'num_classes', given[1]))  # mmpretrain's ClsHead has none
    if needed != given:
        needed, given = (f'{name} of {classes} classes' for name, classes in (needed, given))
        raise UserError(f'the exported model is for {given}, the config for {needed}: name the config of the export')
    model.extract_feat = extract_feat
    task.skip_head(model)
