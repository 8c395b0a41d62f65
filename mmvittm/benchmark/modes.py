"""Run modes: backend, dtype and options. A new backend is a new row in :data:`BACKENDS`."""

import tempfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from ..deploy import FORMATS
from ..deploy.base import Format
from ..errors import UserError
from .timing import Run

#: Data types of the run modes. int8 exists in exports only, and no GEMM is timed in it.
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16, 'int8': torch.int8}


#: Options of PyTorch's run modes: label, what else they need, and whether they fit a mode.
OPTIONS: dict[str, tuple[str, str, Callable[['RunMode'], bool]]] = dict(
    half_weights=('half weights', ' and --dtype bf16 or fp16', lambda mode: mode.dtype != 'fp32'),
    channels_last=('channels last', '', lambda mode: True),
    cuda_graph=('graph', ' and --device cuda, without --train', lambda mode: mode.device == 'cuda' and not mode.train),
)


@dataclass(frozen=True)
class RunMode:
    """Backend, precision and options that a network runs with."""

    backend: str = 'torch'  # of BACKENDS
    dtype: str = 'fp32'
    options: tuple[str, ...] = ()  # of OPTIONS
    train: bool = False  # a training step instead of a forward pass
    device: str = 'cpu'
    threads: int | None = None  # None: the backend's choice

    def __str__(self) -> str:
        labels = [OPTIONS[option][0] for option in self.options] + ['training'] * self.train
        return ', '.join([f'{self.backend} {self.dtype}', *labels])


def run_modes(pairs: Iterable[tuple[str, str]], options: Iterable[str] = (), **common) -> list[RunMode]:
    """Make run modes of pairs of backend and dtype; each option goes to the modes that it fits.

    Raises:
        UserError: If a backend cannot run a mode or is not installed, or an option fits no mode.
    """
    modes = [RunMode(*pair, **common) for pair in dict.fromkeys(pairs)]
    for mode in modes:
        BACKENDS[mode.backend].check(mode)
    for name in options:
        _, needs, fits = OPTIONS[name]
        fitting = [mode for mode in modes if BACKENDS[mode.backend].in_pytorch and fits(mode)]
        if not fitting:
            raise UserError(f'--{name.replace("_", "-")} needs the backend torch or compile{needs}')
        modes = [replace(mode, options=(*mode.options, name)) if mode in fitting else mode for mode in modes]
    return modes


class Torch:
    """PyTorch, eager or with ``torch.compile``, which freezes the weights of a forward pass."""

    packages: tuple[str, ...] = ()
    in_pytorch = True  # takes options, trains, runs on all devices, frees memory after a pass

    def __init__(self, is_eager: bool) -> None:
        self.is_eager = is_eager  # calls modules one by one

    def check(self, mode: RunMode) -> None:
        if mode.dtype == 'int8':
            raise UserError(f'the backend {mode.backend} does not run int8: use openvino')

    def prepare(self, network: nn.Module, images: Tensor, mode: RunMode) -> Run:
        """Make a function that runs one pass of ``network``, which it may change, on ``images (B, 3, H, W)``."""
        dtype, half_weights = DTYPES[mode.dtype], 'half_weights' in mode.options
        if half_weights:
            network, images = network.to(dtype), images.to(dtype)
        if 'channels_last' in mode.options:
            network, images = (x.to(memory_format=torch.channels_last) for x in (network, images))
        autocast = mode.dtype != 'fp32' and not half_weights
        context = torch.autocast(mode.device, dtype) if autocast else nullcontext()
        forward, no_grad = network, torch.inference_mode
        if not self.is_eager:  # dynamo fails on tensors created in inference mode, such as drop path's rate
            forward = torch.compile(network, options=None if mode.train else {'freezing': True})
            no_grad = torch.no_grad
        if mode.train:
            return training_step(network, images, context, forward)

        def run() -> object:
            with no_grad(), context:
                return forward(images)

        return captured(run) if 'cuda_graph' in mode.options else run


class Exported:
    """A runtime of :mod:`mmvittm.deploy`, on a temporary export of the network; int8 is calibrated on the images."""

    in_pytorch = is_eager = False

    def __init__(self, file_format: Format) -> None:
        self.format = file_format
        self.packages = file_format.packages

    def check(self, mode: RunMode) -> None:
        if mode.train or mode.device != 'cpu':
            raise UserError(f'the backend {mode.backend} runs inference on the CPU: drop --train and --device cuda')
        self.format.check(mode.dtype)

    def prepare(self, network: nn.Module, images: Tensor, mode: RunMode) -> Run:
        array = images.numpy()
        calibration = [array] if mode.dtype == 'int8' else None
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f'network{self.format.suffix}'
            self.format.export(network, images, path, mode.dtype, calibration=calibration)
            session = self.format.load(path, mode.dtype, mode.threads)
        return lambda: session(array)


BACKENDS: dict[str, Torch | Exported] = dict(
    torch=Torch(is_eager=True),
    compile=Torch(is_eager=False),
    onnxruntime=Exported(FORMATS['onnx']),
    openvino=Exported(FORMATS['openvino']),
)


def training_step(
    network: nn.Module, images: Tensor, context: AbstractContextManager | None = None, forward: Callable | None = None
) -> Run:
    """Make a training step: forward, the sum of all outputs as loss, backward. No optimizer; gradients are dropped."""
    network.train()

    def run() -> None:
        with context or nullcontext():
            outputs = tree_flatten((forward or network)(images))[0]
        sum(output.float().sum() for output in outputs).backward()
        network.zero_grad(set_to_none=True)

    return run


def captured(run: Run) -> Run:
    """Capture ``run`` as a CUDA graph. Never run on a GPU so far."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay
