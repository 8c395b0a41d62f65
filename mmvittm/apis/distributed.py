"""Processes that work on one model: starting them where there is no GPU, and saying it when one is lost."""

import os
import re
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.dist import init_dist, is_distributed


def fit_to_cpu(cfg: Config) -> None:
    """Take out of a config what exists on GPUs only: nccl, SyncBN, mmengine's AMP and DDP's GPU for each process."""
    cfg.merge_from_dict(dict(env_cfg=dict(dist_cfg=dict(backend='gloo')), sync_bn=None))
    if cfg.get('optim_wrapper', {}).get('type') == 'AmpOptimWrapper':
        cfg.optim_wrapper.type = 'mmvittm.Bf16OptimWrapper'
    if cfg.launcher != 'none' and 'strategy' not in cfg:
        find_unused = cfg.get('find_unused_parameters', False)  # mmengine reads it in the absence of a wrapper only
        defaults = dict(device_ids=None, broadcast_buffers=False, find_unused_parameters=find_unused)
        cfg.model_wrapper_cfg = {**defaults, **cfg.get('model_wrapper_cfg', {})}


def join_processes(cfg: Config) -> None:
    """Let this process join the others on the CPU, where mmengine would ask CUDA for a device first."""
    if cfg.launcher != 'none' and not (torch.cuda.is_available() or is_distributed()):
        with mock.patch.object(torch.cuda, 'set_device'):
            init_dist(cfg.launcher, **cfg.env_cfg.dist_cfg)


_LOST = re.compile(
    r'connection (?:closed|reset|refused)|broken pipe|timed out waiting|wait timeout|waiting for clients'
    r'|ncclRemoteError|ncclSystemError|remote process exited',
    re.IGNORECASE,
)


def lost_process(error: RuntimeError) -> str | None:
    """One sentence if ``error`` says that another process of a distributed run ended or no longer answers.

    gloo, nccl and the store raise plain ``RuntimeError`` in some versions, so the words tell.
    """
    if 'RANK' not in os.environ or not _LOST.search(str(error)):
        return None
    reason = re.sub(r'^\[\S+\] ', '', ' '.join(str(error).split()).partition('. ')[0])  # without gloo's source line
    return (
        f'rank {os.environ["RANK"]} of {os.environ["WORLD_SIZE"]} lost another process of this run, which was killed, '
        'failed or did not answer within dist_cfg.timeout: its own log tells why; start all of them again with '
        f'--resume ({reason})'
    )
