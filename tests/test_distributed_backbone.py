"""Two processes without ``find_unused_parameters`` train as one does on the same global batch."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers.tiny import tiny_backbone
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmvittm.engine.hooks import SyncRunningStatsHook
from mmvittm.registry import MODELS

STEPS, BATCH = 3, 4


def build(options: dict) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS.build(tiny_backbone(**options))
    model.init_weights()
    return model.train()


def train(model, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Train with SGD, which keeps the size of a difference between gradients."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    for batch in images:
        optimizer.zero_grad()
        sum(feature.square().mean() for feature in model(batch)).backward()
        optimizer.step()
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


CASES = dict(
    process=dict(out_stream='process'),
    mixed=dict(out_indices=(0, 1), out_stream=('memory', 'process')),
    frozen=dict(out_indices=0, out_stream='concat', frozen_stages=0),
)


def global_batches() -> torch.Tensor:
    return torch.randn(STEPS, BATCH, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    share = global_batches().chunk(2, 1)[rank]
    weights = {name: train(DistributedDataParallel(build(options)), share) for name, options in CASES.items()}
    norm, hook = nn.BatchNorm2d(3), SyncRunningStatsHook()
    hook.before_train(SimpleNamespace(model=norm))
    norm.running_mean.fill_(rank)
    norm.running_var.fill_(1 + rank)
    hook.after_train_iter(None, 0)
    weights['norm'] = norm.state_dict()
    if rank == 0:
        torch.save(weights, folder / 'weights.pth')
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def trained_by_two(tmp_path_factory) -> dict:
    """Weights of all cases. One pair of processes trains them all, since starting one takes seconds."""
    folder = tmp_path_factory.mktemp('distributed')
    mp.spawn(worker, (folder,), nprocs=2)
    return torch.load(folder / 'weights.pth', weights_only=True)


@pytest.mark.parametrize('name', CASES)
def test_two_processes_equal_one(trained_by_two, name):
    before = build(CASES[name]).state_dict()
    alone = train(build(CASES[name]), global_batches())
    together = {key.removeprefix('module.'): value for key, value in trained_by_two[name].items()}
    assert max((alone[key] - before[key]).norm() for key in alone) > 0.01, 'nothing was learned'
    for key in alone:
        assert (together[key] - alone[key]).norm() <= 1e-5 * alone[key].norm().clamp(min=1e-3), key


def test_running_statistics_are_averaged(trained_by_two):
    assert trained_by_two['norm']['running_mean'].tolist() == [0.5] * 3
    assert trained_by_two['norm']['running_var'].tolist() == [1.5] * 3
