"""Distributed runs on the CPU, and the loss of one of their processes."""

import gc
import os
import re
import subprocess
from datetime import timedelta

import torch
from mmengine.config import Config
from mmengine.dist import is_distributed

from ..errors import UserError
from ..registry import type_name

# The variables that torch.distributed reads, and those that the launchers of mmengine set instead.
_VARIABLES = {
    'none': {},
    'pytorch': dict(RANK='RANK', WORLD_SIZE='WORLD_SIZE', MASTER_ADDR='MASTER_ADDR'),
    'slurm': dict(RANK='SLURM_PROCID', LOCAL_RANK='SLURM_LOCALID', WORLD_SIZE='SLURM_NTASKS'),
    'mpi': dict(
        RANK='OMPI_COMM_WORLD_RANK', LOCAL_RANK='OMPI_COMM_WORLD_LOCAL_RANK', WORLD_SIZE='OMPI_COMM_WORLD_SIZE'
    ),
}

# gloo, nccl and the store raise a plain RuntimeError in some versions, so only the text tells.
_LOST = re.compile(
    r'connection (?:closed|reset|refused)|broken pipe|timed out waiting|wait timeout|waiting for clients'
    r'|ncclRemoteError|ncclSystemError|remote process exited',
    re.IGNORECASE,
)


def check_launcher(launcher: str) -> None:
    """Raise a :class:`UserError` if the environment variables are missing that ``launcher`` sets."""
    if missing := [name for name in _VARIABLES[launcher].values() if name not in os.environ]:
        raise UserError(
            f'--launcher {launcher} did not start this process ({", ".join(missing)} not set): start it with torchrun, '
            'srun or mpirun, or leave --launcher out'
        )


def adapt_to_cpu(cfg: Config) -> None:
    """Replace the settings of a config that need a GPU: nccl, SyncBN, mmengine's AMP and the device ids of DDP."""
    cfg.merge_from_dict(dict(env_cfg=dict(dist_cfg=dict(backend='gloo')), sync_bn=None))
    if type_name(cfg.get('optim_wrapper') or {}) == 'AmpOptimWrapper':
        cfg.optim_wrapper.type = 'mmvittm.Bf16OptimWrapper'
    if cfg.launcher != 'none' and 'strategy' not in cfg:
        # mmengine reads find_unused_parameters only where there is no model_wrapper_cfg
        find_unused = cfg.get('find_unused_parameters', False)
        defaults = dict(device_ids=None, broadcast_buffers=False, find_unused_parameters=find_unused)
        cfg.model_wrapper_cfg = {**defaults, **(cfg.get('model_wrapper_cfg') or {})}


def init_cpu_process_group(cfg: Config) -> None:
    """Start gloo if there is no GPU, since mmengine's ``init_dist`` calls CUDA; otherwise leave it to mmengine."""
    if cfg.launcher == 'none' or torch.cuda.is_available() or is_distributed():
        return
    for name, source in _VARIABLES[cfg.launcher].items():
        os.environ[name] = os.environ[source]
    if cfg.launcher == 'slurm' and 'MASTER_ADDR' not in os.environ:
        hosts = subprocess.check_output(['scontrol', 'show', 'hostname', os.environ['SLURM_NODELIST']], text=True)
        os.environ['MASTER_ADDR'] = hosts.split()[0]
    options = dict(cfg.env_cfg.dist_cfg)
    os.environ.setdefault('MASTER_PORT', str(options.pop('port', 29500)))
    if 'timeout' in options:
        options['timeout'] = timedelta(seconds=options['timeout'])
    torch.distributed.init_process_group(**options)


def end_process_group() -> None:
    """End the threads of a distributed run: gloo's abort the process if they free a tensor while Python shuts down."""
    if is_distributed():
        torch.distributed.destroy_process_group()
        gc.collect()  # the threads end with the wrapper of the model, which is part of the runner's cycles


def explain_lost_process(error: RuntimeError) -> str | None:
    """Return one sentence if ``error`` says that another process of a distributed run ended or does not answer."""
    if 'RANK' not in os.environ or not _LOST.search(str(error)):
        return None
    reason = re.sub(r'^\[\S+\] ', '', ' '.join(str(error).split()).partition('. ')[0])  # without gloo's source line
    return (
        f'rank {os.environ["RANK"]} of {os.environ["WORLD_SIZE"]} lost another process of this run ({reason}): see the '
        'log of that process, then start all processes again with --resume'
    )
