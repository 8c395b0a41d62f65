"""Two processes without ``find_unused_parameters`` train as one does on the same global batch."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from mmvittm.models import ViTTM

STEPS, BATCH = 3, 4


def build(options: dict) -> ViTTM:
    torch.manual_seed(0)
    model = ViTTM(
        arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
        img_size=32,
        memory_embed=dict(type='PatchTokens', patch_size=4),
        process_embed=dict(type='PatchTokens', patch_size=8),
        rw_head=dict(type='LinearAttention', latent_ratio=2),
        **options,
    )
    model.init_weights()
    return model.train()


def train(model, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """SGD, so that a difference of gradients stays one of its own size."""
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
    return torch.randn(STEPS, BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def worker(rank: int, port: int, result: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    dist.init_process_group('gloo', rank=rank, world_size=2)
    share = global_batches().chunk(2, 1)[rank]
    weights = {name: train(DistributedDataParallel(build(options)), share) for name, options in CASES.items()}
    if rank == 0:
        torch.save(weights, result)
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def trained_by_two(tmp_path_factory) -> dict:
    """Weights of every case; one pair of processes trains them all, since starting one takes seconds."""
    result = tmp_path_factory.mktemp('distributed') / 'weights.pth'
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    mp.spawn(worker, (port, str(result)), nprocs=2)
    return torch.load(result, weights_only=True)


@pytest.mark.parametrize('name', CASES)
def test_two_processes_equal_one(trained_by_two, name):
    before = build(CASES[name]).state_dict()
    alone = train(build(CASES[name]), global_batches())
    together = {key.removeprefix('module.'): value for key, value in trained_by_two[name].items()}
    assert max((alone[key] - before[key]).norm() for key in alone) > 0.01, 'nothing was learned'
    for key in alone:
        assert (together[key] - alone[key]).norm() <= 1e-5 * alone[key].norm().clamp(min=1e-3), key
