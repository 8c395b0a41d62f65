"""Tiny trainings of a segmentor and a classifier in forked processes that can be killed or stopped at any moment.

A fork of a process that has imported everything starts in a fraction of a second. The trainings use what real recipes
use: random crops, flips and colours in two workers, drop path, mixup, EMA, validation and best checkpoints.
"""

import gc
import hashlib
import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import matplotlib.pyplot as plt
import mmpretrain.models
import mmseg.models
import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from helpers.data import save
from helpers.tiny import tiny_backbone
from mmvittm.apis.distributed import adapt_to_cpu
from mmvittm.apis.runner import build_runner
from mmvittm.errors import UserError
from mmvittm.registry import HOOKS
from mmvittm.weights.loading import load_checkpoint_file

ROOT = Path(__file__).parents[2]
TASKS = ('segmentation', 'classification', 'two_processes')
BACKBONE = tiny_backbone(img_size=32, drop_path_rate=0.2)
IMPORTED_BEFORE_FORKING = (plt, mmpretrain.models, mmseg.models)


def make_data(folder: Path) -> None:
    """Write 16 noisy images of two classes, as a segmentation and as a classification data set."""
    rng = np.random.default_rng(0)
    for number in range(16):
        label = number % 2
        image = rng.integers(0, 128, (40, 40, 3)) + 100 * label
        save(folder / f'images/{number:02}.png', image)
        save(folder / f'labels/{number:02}.png', image[..., 0] > 128)
        save(folder / f'classes/{label}/{number:02}.png', image)


def config(task: str, data: Path, work_dir: Path, total: int, **options) -> Config:
    """Config of a training of ``total`` iterations or epochs (of four iterations) with the hooks of our configs.

    Args:
        **options: Overrides as in ``--cfg-options``, with ``__`` instead of dots.
    """
    cfg = Config.fromfile(ROOT / 'configs/_base_/default_runtime.py')
    cfg.merge_from_dict(Config.fromfile(ROOT / 'configs/_base_/hooks.py').to_dict())
    cfg.merge_from_dict(_TASKS[task](data, total))
    cfg.merge_from_dict(
        dict(
            work_dir=str(work_dir),
            launcher='none',
            env_cfg=dict(dist_cfg=dict(backend='gloo'), cudnn_benchmark=False),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-2), clip_grad=dict(max_norm=1.0)),
            param_scheduler=[
                dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=6),
                dict(type='CosineAnnealingLR', by_epoch=False, begin=6, T_max=40, end=1000),
            ],
            custom_hooks=[dict(type='EMAHook', momentum=0.1)],
            default_hooks=dict(logger=dict(interval=2)),
            log_processor=dict(window_size=5),
            randomness=dict(seed=7),
            val_cfg=dict(),
        )
    )
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    if task == 'two_processes':
        cfg.launcher = 'pytorch'
        adapt_to_cpu(cfg)
    return cfg


def _loader(dataset: dict, sampler: str, **options) -> dict:
    workers = dict(num_workers=2, persistent_workers=True)
    return dict(batch_size=4, sampler=dict(type=sampler, shuffle='collate_fn' not in options), dataset=dataset) | (
        workers | options
    )


def _segmentation(data: Path, total: int) -> dict:
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(data),
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        img_suffix='.png',
        metainfo=dict(classes=('dark', 'light'), palette=[[0, 0, 0], [255, 255, 255]]),
    )
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    augment = [
        dict(type='RandomResize', scale=(40, 40), ratio_range=(0.9, 2.0), keep_ratio=True),
        dict(type='RandomCrop', crop_size=(32, 32)),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PhotoMetricDistortion'),
    ]
    pack = [dict(type='PackSegInputs')]
    plain = dict(type='DefaultSampler', shuffle=False)
    val = dict(batch_size=4, num_workers=0, sampler=plain, dataset={**dataset, 'pipeline': [*load, *pack]})
    return dict(
        model=dict(
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor', size=(32, 32), seg_pad_val=255),
            backbone=dict(BACKBONE, out_indices=(1,), out_stream='process'),
            decode_head=dict(
                type='FCNHead', in_channels=16, channels=8, num_convs=1, num_classes=2, norm_cfg=dict(type='BN')
            ),
            train_cfg=dict(),
            test_cfg=dict(mode='whole'),
        ),
        train_dataloader=_loader({**dataset, 'pipeline': [*load, *augment, *pack]}, 'InfiniteSampler'),
        val_dataloader=val,
        val_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
        train_cfg=dict(type='mmvittm.ResumableIterLoop', max_iters=total, val_interval=6),
        default_hooks=dict(
            logger=dict(log_metric_by_epoch=False),
            checkpoint=dict(by_epoch=False, interval=3, save_best='mIoU'),
        ),
    )


def _classification(data: Path, total: int) -> dict:
    dataset = dict(type='CustomDataset', data_root=str(data), data_prefix='classes', classes=['0', '1'])
    load, pack = [dict(type='LoadImageFromFile')], [dict(type='PackInputs')]
    augment = [
        dict(type='RandomResizedCrop', scale=32),
        dict(type='RandomFlip', prob=0.5),
        dict(type='ColorJitter', brightness=0.3),
        dict(type='RandomErasing', erase_prob=0.5, mode='rand'),
    ]
    resize = [dict(type='Resize', scale=32)]
    plain = dict(type='DefaultSampler', shuffle=False)
    val = dict(batch_size=8, num_workers=0, sampler=plain, dataset={**dataset, 'pipeline': [*load, *resize, *pack]})
    return dict(
        default_scope='mmpretrain',
        visualizer=dict(type='UniversalVisualizer'),
        log_processor=dict(by_epoch=True),
        data_preprocessor=dict(num_classes=2, mean=[128] * 3, std=[64] * 3),
        model=dict(
            type='ImageClassifier',
            backbone=dict(BACKBONE, out_stream='tokens'),
            head=dict(type='mmvittm.ViTTMClsHead', num_classes=2, in_channels=16),
            train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
        ),
        train_dataloader=_loader({**dataset, 'pipeline': [*load, *augment, *pack]}, 'DefaultSampler'),
        val_dataloader=val,
        val_evaluator=dict(type='Accuracy', topk=(1,)),
        train_cfg=dict(type='mmvittm.ResumableEpochLoop', max_epochs=total, val_interval=2),
        default_hooks=dict(checkpoint=dict(interval=1, save_best='accuracy/top1')),
    )


def _two_processes(data: Path, total: int) -> dict:
    """The segmentation with half of each batch, and of the validation, in each of two processes."""
    cfg = _segmentation(data, total)
    cfg['train_dataloader'].update(batch_size=2, num_workers=1)
    cfg['val_dataloader']['sampler']['round_up'] = False
    return cfg


_TASKS = dict(segmentation=_segmentation, classification=_classification, two_processes=_two_processes)


@HOOKS.register_module()
class JournalHook(Hook):
    """Write the exact inputs and loss of each iteration, and the predictions of each validation, a file per process."""

    priority = 'VERY_HIGH'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        pixels = b''.join(image.numpy().tobytes() for image in data_batch['inputs'])
        files = [Path(sample.img_path).name for sample in data_batch['data_samples']]
        line = [runner.iter, batch_idx, files, hashlib.sha1(pixels).hexdigest(), float(outputs['loss']).hex()]
        self._write(runner, 'journal', line)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        kinds = ('seg_logits', 'pred_score')
        found = [sample.get(kind) for sample in outputs for kind in kinds if kind in sample]
        scores = [getattr(score, 'data', score).numpy().tobytes() for score in found]
        self._write(runner, 'predictions', [[runner.iter, batch_idx], hashlib.sha1(b''.join(scores)).hexdigest()])

    def _write(self, runner, name, line):
        with Path(runner.work_dir, f'{name}_{runner.rank}.jsonl').open('a') as file:
            file.write(json.dumps(line) + '\n')


def journal(work_dir: Path, name: str = 'journal_0') -> dict[int | tuple[int, int], set[str]]:
    """Read the distinct lines of each iteration: one, if every repetition was exact."""
    lines = {}
    path = work_dir / f'{name}.jsonl'
    for line in path.read_text().splitlines() if path.is_file() else ():
        key = json.loads(line)[0]
        lines.setdefault(tuple(key) if isinstance(key, list) else key, set()).add(line)
    return lines


def logged(work_dir: Path) -> dict[tuple[str, int], set[str]]:
    """Read the distinct values that LoggerHook wrote for each step, the smoothed losses or metrics, without times."""
    values = {}
    for file in work_dir.glob('*/vis_data/scalars.json'):
        for line in file.read_text().splitlines():
            try:
                scalars = json.loads(line)
            except ValueError:
                continue  # cut off when the process was killed
            kept = {k: v for k, v in scalars.items() if 'time' not in k and k != 'memory'}
            key = 'losses' if 'loss' in scalars else 'metrics', scalars['step']
            values.setdefault(key, set()).add(json.dumps(kept, sort_keys=True))
    return values


def train(cfg: Config, resume: bool = False, prepare=lambda runner: None) -> None:
    """Train in this process, as tools/train.py does, after ``prepare`` has changed the runner."""
    # formatting the config with yapf for each checkpoint takes longer than these trainings
    Config.pretty_text = property(repr)
    cfg.resume = resume
    runner = build_runner(cfg)
    runner.register_hook(dict(type='mmvittm.JournalHook'))
    prepare(runner)
    runner.train()


def fork(work, log: Path) -> int:
    """Call ``work`` in a child process with its output in ``log``, and return its id. Status 1 is a UserError."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    status = 70
    gc.freeze()  # do not collect what belongs to the parent, such as data loaders with workers
    try:
        sys.stdout = sys.stderr = log.open('a', buffering=1)
        os.dup2(sys.stdout.fileno(), 1)  # for workers, and for what pytest does not capture
        os.dup2(sys.stdout.fileno(), 2)
        torch.set_num_threads(1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        work()
        status = 0
    except UserError as error:
        print('error:', error, file=sys.stderr)
        status = 1
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
        if status == 1:
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def start(cfg: Config, work: Callable[[], None], log: Path) -> list[int]:
    """Fork the processes of a training, two if it has a launcher, and return their ids."""
    if cfg.launcher == 'none':
        return [fork(work, log)]
    port = free_port()

    def work_as(rank: int) -> None:
        os.environ.update(rank_environment(rank, port))
        work()

    return [fork(lambda rank=rank: work_as(rank), log) for rank in range(2)]


def free_port() -> int:
    """Find a port on which nothing listens, below those that the system gives to connections in the meantime."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(('', random.SystemRandom().randint(20000, 32000)))
            return probe.getsockname()[1]


def rank_environment(rank: int, port: int) -> dict[str, str]:
    """Return the variables that a launcher sets for one of two processes."""
    return dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')


def wait_for_all(processes: list[int], poll: Callable[[], None] = lambda: None) -> int:
    """Call ``poll`` until all processes end; kill those that remain 30 s after another failed.

    Returns:
        int: The exit status of the first to fail, negative if a signal ended it, or 0.
    """
    statuses: dict[int, int] = {}
    deadline = float('inf')
    while len(statuses) < len(processes):
        for process in set(processes) - set(statuses):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                statuses[process] = os.waitstatus_to_exitcode(status)
                deadline = min(deadline, time.monotonic() + 30) if statuses[process] else deadline
            elif time.monotonic() > deadline:
                os.kill(process, signal.SIGKILL)
        poll()
        time.sleep(0.002)
    return next(filter(None, statuses.values()), 0)


def run(cfg: Config, log: Path, resume: bool = True) -> int:
    """Train in forked processes and return the exit status."""
    return wait_for_all(start(cfg, lambda: train(cfg, resume), log))


def wait(process: int) -> int:
    """Return the exit status of a forked process, negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def state(path: Path) -> dict:
    """Flatten all of a checkpoint that must not depend on interruptions, as ``{place: value}``."""
    checkpoint = load_checkpoint_file(path)
    hub = checkpoint['message_hub']
    hub['log_scalars'] = {
        key: (buffer._log_history.tolist(), buffer._count_history.tolist())
        for key, buffer in hub['log_scalars'].items()
        if 'time' not in key
    }
    checkpoint['meta'] = {key: checkpoint['meta'][key] for key in ('epoch', 'iter', 'seed')}
    # paths and times, and the epoch and iteration, which are in meta
    for key in ('cfg', 'experiment_name', 'mmengine_version', 'last_ckpt', 'best_ckpt', 'eta', 'epoch', 'iter'):
        hub['runtime_info'].pop(key, None)
    hub['resumed_keys'] = {key: value for key, value in hub['resumed_keys'].items() if 'time' not in key}
    return dict(_flat(checkpoint, ''))


def _flat(value, place):
    if isinstance(value, (dict, list, tuple)) and not isinstance(value, torch.Size):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in items:
            yield from _flat(each, f'{place}/{key}')
    else:
        yield place, value


def differences(one: dict, other: dict) -> list[str]:
    """Return the places at which two states are not bit-identical (NaN equals NaN)."""

    def same(a, b):
        if isinstance(a, torch.Tensor):
            return a.dtype == b.dtype and torch.equal(a, b)
        return a == b or (a != a and b != b)

    return [key for key in {**one, **other} if key not in one or key not in other or not same(one[key], other[key])]


class Killer:
    """Kill or stop a training at random, in one of four ways.

    Args:
        seed (int): Seed of all random choices.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def run(self, cfg: Config, log: Path, way: str) -> int:
        """Resume the training of ``cfg``, end it and return its exit status, 0 if it ended first."""
        return getattr(self, f'_{way}')(cfg, log)

    def _at_any_time(self, cfg: Config, log: Path) -> int:
        """Kill one of its processes from outside after some iterations and a random delay."""
        return self._strike(cfg, log, lambda processes: os.kill(self.random.choice(processes), signal.SIGKILL))

    def _by_signal(self, cfg: Config, log: Path) -> int:
        """Send SIGTERM to its processes after some iterations and a random delay."""
        return self._strike(cfg, log, lambda processes: [os.kill(process, signal.SIGTERM) for process in processes])

    def _strike(self, cfg: Config, log: Path, strike: Callable[[list[int]], object]) -> int:
        path = Path(cfg.work_dir, 'journal_0.jsonl')
        before = path.stat().st_size if path.is_file() else 0
        lines = self.random.randint(1, 9)
        processes = start(cfg, lambda: train(cfg, resume=True), log)

        def poll() -> None:
            nonlocal lines
            if lines and path.is_file() and path.read_bytes()[before:].count(b'\n') >= lines:
                lines = 0
                time.sleep(self.random.random() * 0.1)
                with suppress(ProcessLookupError):
                    strike(processes)

        return wait_for_all(processes, poll)

    def _between_file_operations(self, cfg: Config, log: Path) -> int:
        """Let it kill itself just before it writes, renames or deletes a checkpoint file."""
        countdown = self.random.randint(1, 14)

        def watch(event, arguments):
            nonlocal countdown
            writes = event == 'open' and isinstance(arguments[1], str) and set(arguments[1]) & set('wx+')
            name = str(arguments[0]) if arguments else ''
            if (writes or event in ('os.rename', 'os.remove')) and ('.pth' in name or 'last_checkpoint' in name):
                countdown -= 1
                if not countdown:
                    os.kill(os.getpid(), signal.SIGKILL)

        def work():
            sys.addaudithook(watch)
            train(cfg, resume=True)

        return wait_for_all(start(cfg, work, log))

    def _while_writing(self, cfg: Config, log: Path) -> int:
        """Let it kill itself with a checkpoint partly written."""
        countdown, share = self.random.randint(1, 3), self.random.random()

        def write_bytes(path, data):
            nonlocal countdown
            countdown -= 1
            with path.open('wb') as file:
                file.write(data if countdown else data[: int(len(data) * share)])
            if not countdown:
                os.kill(os.getpid(), signal.SIGKILL)

        def work():
            Path.write_bytes = write_bytes
            train(cfg, resume=True)

        return wait_for_all(start(cfg, work, log))


WAYS = ('at_any_time', 'between_file_operations', 'while_writing', 'by_signal')
