"""Compare two gloo processes with one process on the same global batch, and kill one of two."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from helpers.data import save
from helpers.survival import free_port, rank_environment
from helpers.tiny import tiny_backbone
from mmengine.config import Config
from torch import nn

from mmvittm.apis.cli import run_tool
from mmvittm.apis.config import load_config
from mmvittm.apis.distributed import adapt_to_cpu, explain_lost_process
from mmvittm.apis.runner import _ToolRunner
from mmvittm.engine import Bf16OptimWrapper
from mmvittm.engine.runner.fsdp_strategy import FSDPStrategy, fsdp_runs_on_cpu
from mmvittm.errors import UserError
from mmvittm.registry import MODELS
from mmvittm.weights.loading import load_checkpoint_file

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / 'configs').glob('vi*/*.py'))
IMAGES = 5  # an odd number, which two processes cannot share evenly

# No layer mixes images (BatchNorm would, since SyncBN needs GPUs), only the sampler is random, and SGD keeps the size
# of a difference between gradients. Some parameters of the segmentor have no effect and are frozen.
COMMON = f"""
backbone = dict({tiny_backbone(img_size=32, rw_head=dict(type='LinearAttention'))!r}, _delete_=True)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='SGD', lr=0.1, momentum=0.9, weight_decay=0.01), clip_grad=dict(max_norm=0.5))
param_scheduler, custom_hooks = [], []
randomness = dict(seed=0)
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=2, save_best=None), logger=dict(type='LoggerHook', interval=1))
log_processor = dict(window_size=1, by_epoch=False)
env_cfg = dict(dist_cfg=dict(timeout=120))
"""
SEGMENTOR = f"""
_base_ = [
    '{ROOT}/configs/_base_/models/segmenter_vittm-b.py',
    '{ROOT}/configs/_base_/schedules/adamw_160k.py',
    '{ROOT}/configs/_base_/default_runtime.py',
]
{COMMON}
model = dict(
    data_preprocessor=dict(size=(32, 32), test_cfg=dict(size_divisor=8)),
    backbone=dict(**backbone, out_stream='process'),
    decode_head=dict(in_channels=16, channels=16, embed_dims=16, num_layers=1, num_heads=2, num_classes=3))
dataset = dict(
    type='BaseSegDataset', data_root='data', data_prefix=dict(img_path='images', seg_map_path='labels'),
    metainfo=dict(classes=('a', 'b', 'c'), palette=[[0] * 3, [1] * 3, [2] * 3]),
    pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')])
train_dataloader = dict(batch_size=4, sampler=dict(type='InfiniteSampler', shuffle=True), dataset=dataset)
val_dataloader = dict(sampler=dict(type='DefaultSampler', shuffle=False, round_up=False), dataset=dataset)
val_evaluator = dict(type='mmvittm.ClassIoUMetric', iou_metrics=['mIoU'])
test_dataloader, test_evaluator = val_dataloader, val_evaluator
train_cfg = dict(max_iters=4, val_interval=4)
"""
CLASSIFIER = f"""
_base_ = [
    '{ROOT}/configs/_base_/models/classifier_vittm.py',
    '{ROOT}/configs/_base_/schedules/adamw_300e.py',
    '{ROOT}/configs/_base_/default_runtime_classification.py',
]
{COMMON}
data_preprocessor = dict(num_classes=5, mean=[128.0] * 3, std=[64.0] * 3, to_rgb=True)
model = dict(backbone=dict(**backbone, out_stream='tokens'), head=dict(num_classes=5, in_channels=16))
dataset = dict(
    type='CustomDataset', data_root='data', data_prefix='classes',
    pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')])
train_dataloader = dict(
    batch_size=4, sampler=dict(type='DefaultSampler', shuffle=True), dataset=dataset, drop_last=True)
val_dataloader = dict(sampler=dict(type='DefaultSampler', shuffle=False, round_up=False), dataset=dataset)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=4, val_interval=4)
"""
# Configs for two processes, each with the config of one process to compare with.
TWO = {
    'segmentor-2': ('segmentor', 'train_dataloader = dict(batch_size=2)'),
    'classifier-2': ('classifier', 'train_dataloader = dict(batch_size=2)'),
    'checkpointed-2': ('segmentor', 'train_dataloader = dict(batch_size=2)\nmodel = dict(backbone=dict(with_cp=True))'),
    'accumulated-2': (
        'segmentor',
        'train_dataloader = dict(batch_size=1)\noptim_wrapper = dict(accumulative_counts=2)\n'
        'train_cfg = dict(max_iters=8, val_interval=8)',
    ),
    'bf16-2': ('bf16', 'train_dataloader = dict(batch_size=2)'),
    'fsdp-2': (
        'segmentor',
        "runner_type = 'FlexibleRunner'\ntrain_dataloader = dict(batch_size=2)\n"
        "strategy = dict(type='mmvittm.FSDPStrategy', activation_checkpointing=dict(check_fn='mmvittm.is_vittm_layer'),"
        " model_wrapper=dict(auto_wrap_policy='mmvittm.wrap_vittm_layers'))\n"
        'val_dataloader = dict(sampler=dict(round_up=True))',
    ),
}
ONE = {
    'segmentor': SEGMENTOR,
    'classifier': CLASSIFIER,
    'bf16': "_base_ = './segmentor.py'\noptim_wrapper = dict(type='AmpOptimWrapper', dtype='bfloat16')",
}


def write_project(folder: Path) -> None:
    """Write the configs and a few images to segment and classify."""
    for name, text in ONE.items():
        (folder / f'{name}.py').write_text(text)
    for name, (base, text) in TWO.items():
        (folder / f'{name}.py').write_text(f"_base_ = './{base}.py'\n{text}")
    generator = np.random.default_rng(0)
    for index in range(IMAGES):
        label = generator.integers(0, 3, (4, 4), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        image = 80 * label[..., None] + generator.integers(0, 60, (32, 32, 3))
        save(folder / f'data/classes/{index}/0.png', image)
        save(folder / f'data/images/{index}.jpg', image)
        save(folder / f'data/labels/{index}.png', label)


def train(name: str, *args: str) -> None:
    """Run tools/train.py in this process."""
    sys.argv = ['train.py', f'{name}.py', '--work-dir', f'work/{name}', *args]
    sys.argv += ['--cfg-options', f'visualizer.name={name}{len(args)}']  # mmengine allows each name once per process
    runpy.run_path(str(ROOT / 'tools' / 'train.py'), run_name='__main__')


def worker(index: int, folder: Path, ports: mp.SimpleQueue) -> None:
    """Train on ranks 0 and 1 together, and in process 2 alone."""
    torch.set_num_threads(1)
    os.chdir(folder)
    if index == 2:
        for name in ONE:
            train(name)
        return
    for name in TWO:
        if name != 'fsdp-2' or fsdp_runs_on_cpu():
            train_together(index, ports, name)
    if fsdp_runs_on_cpu():
        if index == 0:
            Path('work/fsdp-2/iter_4.pth').rename('work/fsdp-2/unbroken.pth')
        train_together(index, ports, 'fsdp-2', '--resume', 'work/fsdp-2/iter_2.pth')


def train_together(rank: int, ports: mp.SimpleQueue, name: str, *args: str) -> None:
    """Train as one of two processes, which must end its threads: they can abort it while Python shuts down."""
    if rank == 0:
        port = free_port()  # just before its use, since another test could take it
        ports.put(port)
    else:
        port = ports.get()
    os.environ.update(rank_environment(rank, port))
    train(name, '--launcher', 'pytorch', *args)
    threads = [file.read_text().strip() for file in Path('/proc/self/task').glob('*/comm')]
    assert not [thread for thread in threads if 'gloo' in thread], threads


@pytest.fixture(scope='module')
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('distributed')
    write_project(folder)
    return folder


@pytest.fixture(scope='module')
def trained(project) -> Path:
    """Train all configs in three processes, since starting one takes seconds."""
    mp.spawn(worker, (project, mp.get_context('spawn').SimpleQueue()), nprocs=3)
    return project / 'work'


def logged(work_dir: Path) -> list[dict]:
    """Read the logged values of each step, without times."""
    (file,) = sorted(work_dir.glob('*/vis_data/scalars.json'))[:1]
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [{key: value for key, value in row.items() if 'time' not in key and key != 'memory'} for row in rows]


def weights(file: Path) -> dict:
    return load_checkpoint_file(file)['state_dict']


def assert_same_weights(one: dict, two: dict) -> None:
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert (two[key] - value).norm() <= 1e-5 * value.norm().clamp(min=1e-2), key


needs_fsdp = pytest.mark.skipif(not fsdp_runs_on_cpu(), reason='FSDP of this torch needs GPUs')
FSDP = pytest.param('fsdp-2', marks=needs_fsdp)


@pytest.mark.parametrize('name', ['segmentor-2', 'classifier-2', 'checkpointed-2', FSDP])
def test_logs_equal_those_of_one_process(trained, name):
    """Losses, gradient norms, accuracies, and metrics of a validation set with an odd number of images."""
    alone, together = logged(trained / TWO[name][0]), logged(trained / name)
    assert len(alone) == len(together) == 5
    for one, two in zip(alone, together, strict=True):
        assert two == pytest.approx(one, rel=1e-5), f'step {one["step"]}'
    losses = [row['loss'] for row in alone if 'loss' in row]
    assert max(losses) - min(losses) > 0.01, 'nothing changes'


@pytest.mark.parametrize('name', ['segmentor-2', 'classifier-2', 'checkpointed-2', 'accumulated-2', FSDP])
def test_weights_equal_those_of_one_process(trained, name):
    """Also with accumulated gradients and, from a full checkpoint, with FSDP."""
    file = 'iter_8.pth' if name == 'accumulated-2' else 'unbroken.pth' if name == 'fsdp-2' else 'iter_4.pth'
    assert_same_weights(weights(trained / TWO[name][0] / 'iter_4.pth'), weights(trained / name / file))


def test_accumulated_losses(trained):
    alone, together = ([row['loss'] for row in logged(trained / name)[:-1]] for name in ('segmentor', 'accumulated-2'))
    assert [(a + b) / 2 for a, b in zip(together[::2], together[1::2], strict=True)] == pytest.approx(alone, rel=1e-5)


def test_amp_in_bfloat16(trained):
    """``AmpOptimWrapper(dtype='bfloat16')`` runs on the CPU and gives similar losses."""
    exact, alone, together = (logged(trained / name)[:-1] for name in ('segmentor', 'bf16', 'bf16-2'))
    assert together[0]['loss'] == pytest.approx(alone[0]['loss'], rel=1e-5)
    assert alone[0]['loss'] != pytest.approx(exact[0]['loss'], rel=1e-5)
    for one, two, reference in zip(alone, together, exact, strict=True):
        assert one['loss'] == pytest.approx(reference['loss'], rel=0.03)
        assert two['loss'] == pytest.approx(reference['loss'], rel=0.03)


@pytest.mark.parametrize('status', [None, 143])
def test_tool_ends_its_process_group(monkeypatch, status):
    """When it is done, and when a signal stopped it."""

    def main():
        torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
        if status:
            sys.exit(status)

    monkeypatch.setattr(sys, 'argv', ['tool.py'])
    with pytest.raises(SystemExit, match='143') if status else nullcontext():
        run_tool(main)
    assert not torch.distributed.is_initialized()


def test_float16_on_the_cpu():
    with pytest.raises(UserError, match="dtype is 'float16': on the CPU, use 'bfloat16'"):
        Bf16OptimWrapper(optimizer=None, dtype='float16')


def test_sync_bn_of_a_model_becomes_bn_on_the_cpu(monkeypatch):
    """SyncBN needs a GPU, and configs of MMSegmentation name it as the type of their norms."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    base = type('Base', (), dict(wrap_model=lambda self, wrapper, model: model))
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4))
    wrapped = type('Runner', (_ToolRunner, base), {})().wrap_model(None, model)
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in wrapped.modules())
    assert wrapped(torch.randn(2, 3, 5, 5)).std() > 0


def test_config_without_training_on_the_cpu():
    cfg = Config(dict(launcher='pytorch', optim_wrapper=None, model_wrapper_cfg=None))
    adapt_to_cpu(cfg)
    assert cfg.optim_wrapper is None and cfg.model_wrapper_cfg.device_ids is None


def test_settings_of_ddp_are_kept_on_the_cpu():
    cfg = Config(dict(launcher='pytorch', find_unused_parameters=True, model_wrapper_cfg=dict(broadcast_buffers=True)))
    adapt_to_cpu(cfg)
    assert cfg.model_wrapper_cfg == dict(device_ids=None, broadcast_buffers=True, find_unused_parameters=True)


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        (
            '[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:1',
            r'Connection closed by peer \[::1\]:1',
        ),
        (
            '[unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation',
            'Timed out waiting 1800000ms for recv',
        ),
        ('wait timeout after 1800000ms, keys: /default_pg', 'wait timeout'),
        ('Timed out after 61 seconds waiting for clients. 1/2 clients joined.', 'Timed out after 61 seconds waiting'),
        ('NCCL error\nncclRemoteError: A call failed. Last error', 'NCCL error ncclRemoteError: A call failed'),
    ],
)
def test_lost_process(monkeypatch, text, reason):
    monkeypatch.delenv('RANK', raising=False)
    assert explain_lost_process(RuntimeError(text)) is None, 'of a run of one process'
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    assert re.match(
        rf'rank 1 of 2 lost another process of this run \({reason}', explain_lost_process(RuntimeError(text))
    )
    assert explain_lost_process(RuntimeError('a defect')) is None


def test_fsdp_refuses_memory_in_chunks():
    model = nn.Sequential(MODELS.build(tiny_backbone(memory_chunk=8)))
    with pytest.raises(UserError, match='memory_chunk does not work with FSDP' if fsdp_runs_on_cpu() else 'FSDP of'):
        FSDPStrategy()._wrap_model(model)


@needs_fsdp
def test_fsdp_resumes_its_optimizer(trained):
    """Momentum included: the resumed run equals the uninterrupted one."""
    assert_same_weights(weights(trained / 'fsdp-2' / 'unbroken.pth'), weights(trained / 'fsdp-2' / 'iter_4.pth'))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_every_image_is_tested_once(path):
    """Only FSDP repeats samples, since its processes must run equally often."""
    cfg = load_config(path)
    for loader in ('val_dataloader', 'test_dataloader'):
        assert cfg[loader].sampler.get('round_up', True) == ('strategy' in cfg), loader


SRUN = """#!/usr/bin/env bash
# Start two tasks on this machine, as srun does on a node, each with its own log.
printf '%s\\n' "$@" > srun.txt
while [[ $1 == -* ]]; do [[ $1 == -p ]] && shift; shift; done
export SLURM_NTASKS=2 SLURM_NODELIST=node
for rank in 0 1; do SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" > "rank$rank.txt" 2>&1 & done
trap 'kill $(jobs -p)' TERM
status=0
for task in $(jobs -p); do wait "$task" || status=$?; done
exit $status
"""


@pytest.fixture
def start(project):
    """Start a script of tools/ in the project's folder with its output in a file, and end it after the test."""
    programs = project / 'bin'
    programs.mkdir(exist_ok=True)
    for name, text in dict(srun=SRUN, scontrol='#!/bin/sh\necho 127.0.0.1\n').items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    path = os.pathsep.join(map(str, (programs, Path(sys.executable).parent, os.environ['PATH'])))
    started = []

    def run(script: str, *args: object, log: str, **environment: str) -> subprocess.Popen:
        env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT), PATH=path, **environment)
        command = ['bash', str(ROOT / 'tools' / script), *map(str, args)]
        with (project / log).open('w') as file:
            started.append(subprocess.Popen(command, cwd=project, env=env, stdout=file, stderr=subprocess.STDOUT))
        return started[-1]

    yield run
    for process in started:
        process.terminate()
        process.wait(120)


def wait_until(happened, what: str) -> None:
    end = time.monotonic() + 400  # for a busy machine
    while not happened():
        assert time.monotonic() < end, f'{what} did not happen'
        time.sleep(0.2)


def pid_of(rank: str, project: Path, work_dir: str) -> int:
    """Find the process in ``project`` that trains into ``work_dir`` with ``rank`` in its environment."""
    for process in Path('/proc').glob('[0-9]*'):
        try:
            if (process / 'cwd').readlink() != project:
                continue
            command, environment = ((process / name).read_bytes().split(b'\0') for name in ('cmdline', 'environ'))
        except OSError:  # ended, or of another user
            continue
        if b'python' in command[0] and work_dir.encode() in command and rank.encode() in environment:
            return int(process.name)
    raise AssertionError(f'no process {rank} trains into {work_dir}')


def test_metrics_equal_those_of_one_process(project, trained, start):
    """``dist_test.sh`` counts each image once and predicts as the validation did."""
    checkpoint = trained / 'segmentor' / 'iter_4.pth'
    arguments = ('segmentor.py', checkpoint, 2, '--out', 'tested', '--work-dir', 'work/tested')
    tested = start('dist_test.sh', *arguments, log='tested.txt', PORT=str(free_port()))
    assert tested.wait(400) == 0, (project / 'tested.txt').read_text()
    alone = logged(trained / 'segmentor')[-1]
    metrics = json.loads((project / 'tested' / 'metrics.json').read_text())
    assert {key: metrics[key] for key in metrics.keys() & alone.keys()} == pytest.approx(
        {key: alone[key] for key in ('mIoU', 'mAcc', 'aAcc', 'IoU.a', 'IoU.b', 'IoU.c')}, rel=1e-5
    )
    assert len(list((project / 'tested').glob('*.png'))) == IMAGES


@pytest.mark.skipif(not Path('/proc').is_dir(), reason='finds processes in /proc')
def test_killed_process_ends_the_others(project, start):
    """torchrun's agent ends them and reports why; under SLURM they notice and report it themselves."""
    (project / 'endless.py').write_text(
        "_base_ = './segmentor.py'\ntrain_cfg = dict(max_iters=10**6, val_interval=10**6)\n"
        'train_dataloader = dict(batch_size=2)\ndefault_hooks = dict(checkpoint=dict(interval=10**6))'
    )
    arguments = ('endless.py', 2, '--work-dir', 'torchrun', '--verbose')
    agent = start('dist_train.sh', *arguments, log='torchrun.txt', PORT=str(free_port()))
    arguments = ('some_partition', 'some_job', 'endless.py', '--work-dir', 'slurm', '--verbose')
    srun = start(
        'slurm_train.sh', *arguments, log='slurm.txt', GPUS='2', GPUS_PER_NODE='2', MASTER_PORT=str(free_port())
    )
    logs = [project / 'torchrun.txt', project / 'rank0.txt']
    for log in logs:
        wait_until(lambda log=log: log.exists() and 'Iter(train) [ ' in log.read_text(), f'training in {log}')

    os.kill(pid_of('RANK=1', project, 'torchrun'), signal.SIGKILL)
    os.kill(pid_of('SLURM_PROCID=1', project, 'slurm'), signal.SIGKILL)
    assert agent.wait(120) != 0
    assert srun.wait(120) != 0
    assert 'Signal 9 (SIGKILL)' in logs[0].read_text()
    last_words = logs[1].read_text().splitlines()[-1]
    assert last_words.startswith('error: rank 0 of 2 lost another process of this run'), last_words

    asked = (project / 'srun.txt').read_text().splitlines()
    assert asked[:3] == ['-p', 'some_partition', '--job-name=some_job']
    assert {'--ntasks=2', '--ntasks-per-node=2', '--gres=gpu:2', '--kill-on-bad-exit=1'} <= set(asked)
    assert asked[-6:] == ['endless.py', '--launcher', 'slurm', '--work-dir', 'slurm', '--verbose']


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh'])
def test_usage_of_scripts(script):
    done = subprocess.run(['bash', ROOT / 'tools' / script], capture_output=True, text=True)
    assert done.returncode != 0
    assert f'usage: {script} ' in done.stderr
