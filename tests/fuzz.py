"""Fuzz the tools with odd configs, data sets, checkpoints, exported files and command lines.

Each case changes one thing of a tiny training, test or export that works. It must end in one sentence and a failing
exit status, or do what it was told. Counted are sentences, passes, tracebacks, and faults that pass in silence; the
last two are errors. Cases run in this process.

    python tests/fuzz.py --cases 1000 --seed 0
"""

import argparse
import contextlib
import copy
import gc
import io
import json
import os
import resource
import runpy
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from helpers.data import save
from helpers.deployment import METADATA_0_1_0, make_models
from helpers.survival import config
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.internal.constants_ast import Constants
from mmengine.utils import ManagerMixin
from PIL import Image

from mmvittm.deploy.images import FITS, prepare
from mmvittm.deploy.metadata import ExportMetadata
from mmvittm.errors import UserError

ROOT = Path(__file__).parents[1]
SECONDS = 120  # after which a case counts as hanging
REFUSED, WARNED, EITHER = 'refused', 'warned about', 'either'


@dataclass
class Case:
    """One change of something that works."""

    name: str
    run: Callable[[Path], None]  # in an empty folder
    expected: str = EITHER


@dataclass
class Result:
    """Result of a case: 'sentence', 'pass', 'traceback' or 'silent'."""

    kind: str
    text: str


# Running a case


def tool(name: str, *words: object) -> None:
    """Run a script of tools/ in this process."""
    sys.argv = [name, *map(str, words)]
    runpy.run_path(str(ROOT / 'tools' / name), run_name='__main__')


def judge(case: Case, folder: Path) -> Result:
    """Run a case and judge its end."""
    output = io.StringIO()
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(SECONDS)
    arguments, directory = sys.argv, Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            case.run(folder)
    except UserError as error:
        return _sentence(str(error))
    except SystemExit as stopped:
        if stopped.code == 2:  # argparse
            return _sentence(output.getvalue().strip().splitlines()[-1])
        if stopped.code:
            return _sentence(str(stopped.code))
    except BaseException:
        return Result('traceback', traceback.format_exc())
    finally:
        signal.alarm(0)
        sys.argv = arguments
        os.chdir(directory)
        forget()
    told = case.expected == WARNED and 'WARNING' in output.getvalue()
    return Result('pass' if case.expected == EITHER or told else 'silent', output.getvalue())


def _stop(*_: object) -> None:
    raise TimeoutError(f'still running after {SECONDS} s')


def _sentence(text: str) -> Result:
    is_one = '\n' not in text and len(text) < 1500 and 'Traceback' not in text
    return Result('sentence' if is_one else 'traceback', text)


def forget(kept: type = ManagerMixin) -> None:
    """Remove what mmengine keeps of a run for the life of a process, such as its loggers and visualizers."""
    for instance in kept._instance_dict.values():
        for handler in getattr(instance, 'handlers', ()):
            handler.close()
    kept._instance_dict.clear()
    for each in kept.__subclasses__():
        forget(each)


# Configs

ODD = [-1, 0, 2, 1e30, float('nan'), float('inf'), '', 'x', '[/x]', None, [], [1, 'a'], {}, True, dict(type='X')]
WRONG = {
    'model.backbone.drop_path_rate': [2, -1, 1.0, float('nan')],
    'optim_wrapper.clip_grad.max_norm': [-1, 0, float('nan')],
    'model.decode_head.num_classes': [1, 3, 150],
    'model.data_preprocessor.std': [[0, 1, 1], [1, float('nan'), 1]],
    'model.data_preprocessor.mean': [[0, float('inf'), 1]],
    'train_cfg.max_iters': [0, -1],
    'train_cfg.val_interval': [0, -5],
    'optim_wrapper.optimizer.lr': [-1, float('nan'), 'fast'],
    'val_evaluator.iou_metrics': [['mIoUU'], 'x'],
    'load_from': ['nowhere.pth'],
}
ENDLESS = ('max_iters', 'num_workers', 'timeout', 'prefetch_factor')  # no large values for these


def base_config(data: Path) -> dict:
    """Config of one training iteration and one validation, without workers."""
    cfg = config('segmentation', data / 'training', data / 'work', 1)
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False, batch_size=2)
    cfg.val_dataloader.dataset.data_root = str(data / 'validation')
    cfg.model.data_preprocessor.update(mean=[120.0, 115.0, 100.0], std=[58.0, 57.0, 56.0])
    cfg.train_cfg.val_interval = 1
    cfg.val_cfg = dict(type='mmvittm.CheckedValLoop')
    cfg = cfg.to_dict()
    cfg |= dict(test_dataloader=cfg['val_dataloader'], test_evaluator=cfg['val_evaluator'], test_cfg={})
    return eval(repr(cfg))  # without the dicts that its parts share


def places(node: object, place: tuple = ()) -> Iterator[tuple]:
    """Yield the place of everything in a config."""
    if place:
        yield place
    for key, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from places(child, (*place, key))


def at(cfg: dict, place: tuple) -> object:
    for key in place:
        cfg = cfg[key]
    return cfg


def train_with(cfg: dict, folder: Path, *words: object) -> None:
    tool('train.py', write_config(cfg, folder), '--work-dir', 'work', *words)


def write_config(cfg: dict, folder: Path) -> str:
    text = ''.join(f'{name} = {value!r}\n' for name, value in cfg.items())
    (folder / 'config.py').write_text(f'inf, nan = float("inf"), float("nan")\n{text}')
    return 'config.py'


def changed(cfg: dict, place: tuple, value: object) -> dict:
    cfg = copy.deepcopy(cfg)
    at(cfg, place[:-1])[place[-1]] = value
    return cfg


@st.composite
def config_cases(draw: st.DrawFn, cfg: dict) -> Case:
    """Change a value, a type or a key of the config."""
    everywhere = [
        place for place in places(cfg) if place[0] not in ('work_dir', 'env_cfg', 'launcher', 'custom_imports')
    ]
    kind = draw(st.sampled_from(['wrong', 'type', 'key', 'odd', 'odd', 'odd', 'gone']))
    expected = EITHER
    if kind == 'wrong':
        name, values = draw(st.sampled_from(list(WRONG.items())))
        place, value, expected = tuple(name.split('.')), draw(st.sampled_from(values)), REFUSED
    elif kind == 'type':
        types = [place for place in everywhere if place[-1] == 'type' and place[0] not in UNUSED]
        place, expected = draw(st.sampled_from(types)), REFUSED
        value = at(cfg, place)[:-1] + draw(st.sampled_from(['', 'q', '.']))
    elif kind == 'key':
        typed = [place for place in everywhere if isinstance(at(cfg, place), dict) and 'type' in at(cfg, place)]
        place = draw(st.sampled_from([place for place in typed if place[0] not in (*UNUSED, *TOLERANT)]))
        place, value, expected = (*place, 'no_such_argument'), draw(st.sampled_from(ODD)), REFUSED
    else:
        place = draw(st.sampled_from(everywhere))
        value = draw(st.sampled_from(ODD if place[-1] not in ENDLESS else [-1, 0, 'x', None]))
    if kind == 'gone':
        mutated = copy.deepcopy(cfg)
        del at(mutated, place[:-1])[place[-1]]
    else:
        mutated = changed(cfg, place, value)
    name = f'config {kind}: {".".join(map(str, place))} = {value!r}'
    return Case(name, lambda folder: train_with(mutated, folder), expected)


UNUSED = ('tta_model', 'vis_backends', 'test_dataloader', 'test_evaluator', 'test_cfg')  # in training
TOLERANT = ('val_evaluator', 'optim_wrapper', 'param_scheduler')  # IoUMetric, for one, takes any argument

TEXTS = {
    'config.yaml': [
        '!!python/object/apply:os.system ["touch pwned"]',
        'a: !!python/object/new:os.system ["touch pwned"]',
        'a: !!python/name:os.system',
        'a: [1',
        '- 1',
        '',
    ],
    'config.json': ['{', '[]', '1', '{"model": NaN}', '{"model": {"type": 1}}', ''],
    'config.py': [
        'x = = 1',
        'raise SystemError',
        'model = 5',
        '',
        'model = None',
        "_base_ = 'config.py'",
        'import nowhere',
    ],
}


@st.composite
def text_cases(draw: st.DrawFn) -> Case:
    """Write a config file by hand."""
    name = draw(st.sampled_from(list(TEXTS)))
    text = draw(st.sampled_from(TEXTS[name]) | st.text(max_size=20))

    def run(folder: Path) -> None:
        (folder / name).write_text(text, encoding='utf-8', errors='replace')
        try:
            tool('train.py', name, '--work-dir', 'work')
        finally:
            assert not (folder / 'pwned').exists(), 'the config ran code'

    return Case(f'{name}: {text!r}', run, REFUSED)


# Data


def write_data(folder: Path) -> Path:
    """Write a training and a validation set of two classes, two images each."""
    generator = np.random.default_rng(0)
    for split in ('training', 'validation'):
        for number in range(2):
            image = generator.integers(0, 128, (40, 40, 3)) + 100 * number
            save(folder / split / 'images' / f'{number}.png', image)
            save(folder / split / 'labels' / f'{number}.png', image[..., 0] > 128)
    return folder


def _store(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path)


def _exif(image: Path, label: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(image).save(image, exif=exif)


# Faults of an image and its label map.
FAULTS: dict[str, tuple[Callable[[Path, Path, int], object], str]] = {
    'label without a class': (lambda image, label, n: _store(label, np.full((40, 40), 2 + n % 253, np.uint8)), REFUSED),
    '16-bit label': (lambda image, label, n: _store(label, np.full((40, 40), 256 * (1 + n % 9), np.uint16)), REFUSED),
    'RGB label': (lambda image, label, n: _store(label, np.zeros((40, 40, 3), np.uint8)), REFUSED),
    'RGBA label': (lambda image, label, n: _store(label, np.zeros((40, 40, 4), np.uint8)), REFUSED),
    'label of another size': (lambda image, label, n: _store(label, np.zeros((40, 39 - n % 30), np.uint8)), REFUSED),
    'cut label': (lambda image, label, n: label.write_bytes(label.read_bytes()[: n % 70]), REFUSED),
    'no label': (lambda image, label, n: label.unlink(), REFUSED),
    'text as label': (lambda image, label, n: label.write_text('x' * n), REFUSED),
    'floats as label': (lambda image, label, n: Image.new('F', (40, 40), 0.5).save(label, 'TIFF'), REFUSED),
    '16-bit grey image': (lambda image, label, n: _store(image, np.full((40, 40), n, np.uint16)), REFUSED),
    'cut image': (lambda image, label, n: image.write_bytes(image.read_bytes()[: n % 4000]), REFUSED),
    'bytes as image': (lambda image, label, n: image.write_bytes(os.urandom(n)), REFUSED),
    'EXIF turn': (lambda image, label, n: _exif(image, label, 2 + n % 7), REFUSED),
    'PNG in capitals': (lambda image, label, n: image.rename(image.with_suffix('.PNG')), REFUSED),
    'another suffix': (lambda image, label, n: Image.new('RGB', (9, 9)).save(image.with_name('a.jpg')), WARNED),
    'broken link': (lambda image, label, n: image.with_name('b.png').symlink_to('nowhere'), REFUSED),
    'folder as image': (lambda image, label, n: image.with_name('f.png').mkdir(), REFUSED),
    'FIFO as image': (lambda image, label, n: os.mkfifo(image.with_name('f.png')), REFUSED),
    'loop of links': (lambda image, label, n: image.with_name('loop').symlink_to(image.parent), REFUSED),
    'link to itself': (lambda image, label, n: image.with_name('s.png').symlink_to('s.png'), REFUSED),
    'hidden file': (lambda image, label, n: image.with_name('._0.png').write_bytes(b'Mac'), EITHER),
    'grey image': (lambda image, label, n: _store(image, np.full((40, 40), n % 256, np.uint8)), EITHER),
    'RGBA image': (lambda image, label, n: _store(image, np.zeros((40, 40, 4), np.uint8)), EITHER),
    'line of pixels': (lambda *pair: [Image.new('L', (1 + pair[2] % 40, 1)).save(p) for p in pair[:2]], REFUSED),
    'odd name': (lambda image, label, n: [p.rename(p.with_name('[x] ü\n.png')) for p in (image, label)], EITHER),
    'empty folder': (lambda image, label, n: [path.unlink() for path in image.parent.iterdir()], REFUSED),
    'no folder': (lambda image, label, n: image.parent.rename(image.parent.with_name('gone')), REFUSED),
}  # fmt: skip


@st.composite
def data_cases(draw: st.DrawFn, cfg: dict) -> Case:
    """Damage a file of the training or the validation set."""
    name, (damage, expected) = draw(st.sampled_from(list(FAULTS.items())))
    split, number, n = (
        draw(st.sampled_from(['training', 'validation'])),
        draw(st.integers(0, 1)),
        draw(st.integers(0, 4000)),
    )

    def run(folder: Path) -> None:
        data = write_data(folder / 'data')
        damage(*(data / split / kind / f'{number}.png' for kind in ('images', 'labels')), n)
        mutated = copy.deepcopy(cfg)
        for loader, root in (('train_dataloader', 'training'), ('val_dataloader', 'validation')):
            mutated[loader]['dataset']['data_root'] = str(data / root)
        train_with(mutated, folder)

    return Case(f'data: {name} of {split}, {n}', run, expected)


# Checkpoints


@st.composite
def checkpoint_cases(draw: st.DrawFn, cfg: dict, good: Path) -> Case:
    """Test, resume from or start from a damaged checkpoint."""
    content = st.sampled_from(
        [None, 1, 'x', [], {}, dict(state_dict=None), dict(state_dict={}), dict(state_dict={'a': 1})]
    )
    damage = draw(st.integers(0, 10**6) | content | st.binary(max_size=99))
    way = draw(st.sampled_from(['test', 'resume', 'load_from']))

    def run(folder: Path) -> None:
        bad, whole = folder / 'bad.pth', good.read_bytes()
        if isinstance(damage, bytes):
            bad.write_bytes(damage)
        elif isinstance(damage, int) and damage > 1:
            bad.write_bytes(whole[: damage % len(whole)])
        else:
            torch.save(damage, bad)
        if way == 'resume':
            train_with(cfg, folder, '--resume', bad)
        elif way == 'load_from':
            train_with(cfg | dict(load_from=str(bad)), folder)
        else:
            tool('test.py', write_config(cfg, folder), bad, '--work-dir', 'work')

    return Case(f'checkpoint for {way}: {damage!r}', run, REFUSED)


# Exported files


@st.composite
def metadata_cases(draw: st.DrawFn) -> Case:
    """Change a field of the metadata of an exported file; what is accepted must prepare an image."""
    metadata = json.loads(METADATA_0_1_0)
    name = draw(st.sampled_from([*ExportMetadata.__dataclass_fields__, 'nothing']))
    odd = st.sampled_from(ODD) | st.lists(st.sampled_from(ODD) | st.lists(st.integers(-1, 300), max_size=3), max_size=3)
    value = draw(odd)
    if draw(st.booleans()):
        metadata[name] = value
    else:
        metadata.pop(name, None)

    def run(folder: Path) -> None:
        read = ExportMetadata.from_dict(metadata, folder / 'model.onnx')
        inputs, _ = prepare(np.full((20, 30, 3), 100, np.uint8), read)
        assert inputs.shape == (3, *read.shape) and np.isfinite(inputs).all(), 'the image is prepared wrongly'
        assert read.fit in FITS and len(read.palette) == len(read.classes)
        assert np.array(read.palette, np.uint8).shape == (len(read.classes), 3)

    return Case(f'metadata: {name} = {value!r}', run)


# Command lines

LINES = [
    'train.py {config} --resume ""', 'test.py {config} ""', 'train.py ""', 'train.py', 'train.py {config} --nonsense',
    'train.py {config} --resume=', 'train.py {config} --work-dir ""', 'train.py {config} --launcher pytorch',
    'train.py {config} --launcher slurm', 'train.py {config} --launcher mpi', 'train.py {config} --launcher x',
    'train.py {config} --cfg-options a', 'train.py {config} --cfg-options a=[1,', 'train.py {config} --cfg-options =',
    'train.py {config} --cfg-options model.backbone.depth.x=1', 'train.py {config} --cfg-options model=1',
    'train.py {config} --cfg-options optim_wrapper=None', 'train.py {config} --cfg-options train_cfg=None',
    'train.py {config} --cfg-options train_dataloader=None', 'train.py {config} --cfg-options model.5=1',
    'train.py {config} --work-dir {config}', 'train.py {config} --work-dir /proc/x', 'train.py nowhere.py',
    'train.py {folder}', 'train.py {config} --resume nowhere.pth', 'train.py {config} --resume {folder}',
    'train.py {config} --amp --cfg-options optim_wrapper.type=X', 'test.py {config} {config}', 'test.py {config}',
    'test.py {config} {checkpoint} --tta', 'test.py {config} {checkpoint} --out {config}',
    'fps_benchmark.py {config} --threads 1000000', 'fps_benchmark.py {config} --shape 1000000', 'fps_benchmark.py',
    'fps_benchmark.py {config} --shape 0', 'fps_benchmark.py {config} --shape -1',
    'fps_benchmark.py {config} --shape 32 32 32', 'fps_benchmark.py {config} --shape 32 --batch-size 1000000000000',
    'fps_benchmark.py {config} --precision nan', 'fps_benchmark.py {config} --cfg-options a',
    'fps_benchmark.py {config} --checkpoint ""', 'fps_benchmark.py {config} --checkpoint nowhere.pth',
    'image_demo.py nowhere {segmentor} {checkpoint}', 'image_demo.py {images} {segmentor}',
    'image_demo.py {images} {segmentor} nowhere.pth', 'image_demo.py {images} nowhere.py {checkpoint}',
    'image_demo.py {images} {segmentor} {weights} --out {images}', 'image_demo.py {images} {images} {checkpoint}',
    'image_demo.py {odd} {segmentor} {weights}',
    'deployment/export.py {segmentor} none --format onnx --shape 0 --out out',
    'deployment/export.py {segmentor} none --format onnx --shape 7 7 --out out',
    'deployment/export.py {segmentor} none --format x --shape 8 --out out',
    'deployment/export.py {segmentor} nowhere --format onnx --shape 16 --out out',
]  # fmt: skip


@st.composite
def line_cases(draw: st.DrawFn, cfg: dict, models: Path, good: Path) -> Case:
    """Run a tool with a wrong command line."""
    line = draw(st.sampled_from(LINES))

    def run(folder: Path) -> None:
        odd = folder / '['  # so that the path of x] reads as markup
        odd.mkdir()
        (odd / 'empty.png').touch()
        _store(odd / 'line.png', np.zeros((1, 3000, 3), np.uint8))
        _store(odd / 'x].png', np.zeros((30, 30, 3), np.uint8))
        names = dict(
            config=write_config(cfg, folder), folder=folder, checkpoint=good, segmentor=models / 'segmentor.py',
            odd=odd, weights=models / 'segmentor.pth', images=models / 'data' / 'images',
        )  # fmt: skip
        try:
            tool(*('' if word == '""' else word.format(**names) for word in line.split()))
        finally:
            if '{odd}' in line:
                assert (folder / 'painted' / 'x].png').exists(), 'a good image was not painted'

    return Case(f'command line: {line}', run, REFUSED)


def fuzz(number: int, start: int, report: Callable[[Case, Result], None] = lambda case, result: None) -> Counter:
    """Run ``number`` cases and count their results by kind."""
    counts: Counter = Counter()
    gc.freeze()  # mmengine collects garbage for each data set
    # hypothesis also draws literals of the modules that are imported, so the cases would depend on what ran before
    without_literals = mock.patch('hypothesis.internal.conjecture.providers._get_local_constants', Constants)
    without_formatting = mock.patch('yapf.yapflib.yapf_api.FormatCode', _check_syntax)
    with tempfile.TemporaryDirectory() as root, without_literals, without_formatting:
        folder = Path(root).resolve()
        cfg = base_config(write_data(folder / 'data'))
        models = make_models(folder / 'models')
        forget()
        good = judge(Case('the unchanged training', lambda here: train_with(cfg, here)), _new(folder))
        assert good.kind == 'pass', good.text
        checkpoint = next(folder.glob('case*/work/iter_1.pth'))
        cases = st.one_of(
            config_cases(cfg), config_cases(cfg), config_cases(cfg), data_cases(cfg), data_cases(cfg), text_cases(),
            checkpoint_cases(cfg, checkpoint), metadata_cases(), line_cases(cfg, models, checkpoint),
        )  # fmt: skip

        @seed(start)
        @settings(
            max_examples=number, database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(cases)
        def run(case: Case) -> None:
            result = judge(case, _new(folder))
            counts[result.kind] += 1
            report(case, result)

        run()
    return counts


def _check_syntax(text: str, *args: object, **kwargs: object) -> tuple[str, bool]:
    """Stand in for yapf, which mmengine formats the config with seven times per run: most of its time."""
    compile(text, 'config', 'exec')
    return text, False


def _new(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix='case', dir=folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cases', type=int, default=1000, help='number of cases (default: 1000)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the cases (default: 0)')
    parser.add_argument('--show-sentences', action='store_true', help='print every sentence, not only the errors')
    args = parser.parse_args()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (24 * 2**30,) * 2)  # so that huge images fail at once

    def report(case: Case, result: Result) -> None:
        if result.kind in ('traceback', 'silent') or (args.show_sentences and result.kind == 'sentence'):
            print(f'{result.kind.upper()} {case.name}\n{result.text.strip()[-1500:]}\n', flush=True)

    counts = fuzz(args.cases, args.seed, report)
    print(f'{counts.total()} cases, seed {args.seed}: {dict(counts)}')
    sys.exit(counts['traceback'] + counts['silent'] > 0)


if __name__ == '__main__':
    main()
