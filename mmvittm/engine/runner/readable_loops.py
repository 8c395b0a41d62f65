"""Validation and testing that name a file they cannot read."""

from mmengine.runner import Runner, TestLoop, ValLoop
from torch.utils.data import DataLoader

from ...registry import LOOPS


class _ReadableLoop:
    """What both loops share; comes before mmengine's loop in the bases."""

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *args, **kwargs) -> None:
        if isinstance(dataloader, dict):  # one that is built is taken as it is
            dataset = dict(type='mmvittm.ReadableDataset', dataset=dataloader['dataset'])
            dataloader = {**dataloader, 'dataset': dataset}
        super().__init__(runner, dataloader, *args, **kwargs)


@LOOPS.register_module()
class ReadableValLoop(_ReadableLoop, ValLoop):
    """mmengine's ValLoop on a :class:`~mmvittm.datasets.ReadableDataset`."""


@LOOPS.register_module()
class ReadableTestLoop(_ReadableLoop, TestLoop):
    """mmengine's TestLoop on a :class:`~mmvittm.datasets.ReadableDataset`."""
