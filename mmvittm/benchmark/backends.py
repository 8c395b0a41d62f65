"""What runs a network: a new way is a new class in :data:`BACKENDS`.

A backend takes a network over and gives a function without arguments that makes one pass.
"""

import tempfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..deploy.base import Format
from ..deploy.formats import FORMATS
from ..errors import UserError
from .timing import Run

Context = Callable[[], AbstractContextManager]
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


@dataclass(frozen=True)
class Way:
    """How a network is run.

    Args:
        backend (str): One of :data:`BACKENDS`.
        dtype (str): One of :data:`DTYPES`.
        half_weights (bool): Cast weights and images to ``dtype`` instead of autocasting.
        channels_last (bool): Lay weights and images out with the channels last.
        cuda_graph (bool): Capture the pass once as a CUDA graph and replay it.
        train (bool): Run a training step, not a forward pass.
        device (str): ``'cpu'`` or ``'cuda'``.
        threads (int, optional): CPU threads; None leaves the choice to the backend.
    """

    backend: str = 'torch'
    dtype: str = 'fp32'
    half_weights: bool = False
    channels_last: bool = False
    cuda_graph: bool = False
    train: bool = False
    device: str = 'cpu'
    threads: int | None = None

    def __str__(self) -> str:
        said = dict(half_weights='half weights', channels_last='channels last', cuda_graph='graph', train='training')
        texts = [text for name, text in said.items() if getattr(self, name)]
        return ', '.join([f'{self.backend} {self.dtype}', *texts])

    def has(self, option: str) -> bool:
        """Whether ``option``, such as ``'half_weights'``, means something to the backend in this dtype."""
        return option in BACKENDS[self.backend].options and not (option == 'half_weights' and self.dtype == 'fp32')

    def check(self) -> None:
        """Refuse what the backend cannot do, before any work.

        Raises:
            UserError: If the backend or dtype is unknown, the backend is not installed or does not offer the dtype, or
                an option is not its own.
        """
        for what, name, known in (('backend', self.backend, BACKENDS), ('dtype', self.dtype, DTYPES)):
            if name not in known:
                raise UserError(f'unknown {what} {name!r}: choose one of {", ".join(known)}')
        backend = BACKENDS[self.backend]
        if self.device not in backend.devices:
            raise UserError(f'the backend {self.backend} runs on {" and ".join(backend.devices)}, not on {self.device}')
        for name in ('half_weights', 'channels_last', 'cuda_graph', 'train'):
            if getattr(self, name) and name not in backend.options:
                raise UserError(f'the backend {self.backend} has no --{name.replace("_", "-")}')
        backend.check(self.dtype)
        if self.half_weights and self.dtype == 'fp32':
            raise UserError('--half-weights casts to a half precision: add --dtype bf16 or fp16')
        if self.cuda_graph and (self.device != 'cuda' or self.train):
            raise UserError(
                '--cuda-graph captures a forward pass on the GPU: use it with --device cuda, without --train'
            )


class Torch:
    """PyTorch, operator by operator."""

    packages: tuple[str, ...] = ()
    devices: tuple[str, ...] = ('cpu', 'cuda')
    options: tuple[str, ...] = ('half_weights', 'channels_last', 'cuda_graph', 'train')
    #: Whether what a pass allocates is given back after it, so that the memory it takes can be seen.
    frees_memory = True
    #: Whether a pass calls the network's modules one by one, so that they can be timed.
    runs_modules = True
    #: Switches gradients off.
    grads: Context = torch.inference_mode

    def check(self, dtype: str) -> None:
        """PyTorch runs in every dtype."""

    def prepare(self, network: nn.Module, images: Tensor, way: Way) -> Run:
        """One pass of ``network``, which is taken over, on ``images`` ``(B, 3, H, W)``."""
        if way.half_weights:
            network, images = network.to(DTYPES[way.dtype]), images.to(DTYPES[way.dtype])
        if way.channels_last:
            network, images = (x.to(memory_format=torch.channels_last) for x in (network, images))
        network, autocast = self.wrapped(network, way), self.autocast(way)
        if way.train:
            return training_step(network, images, autocast)
        run = inference(network, images, autocast, self.grads)
        return captured(run) if way.cuda_graph else run

    def wrapped(self, network: nn.Module, way: Way) -> Callable[[Tensor], object]:
        return network

    @staticmethod
    def autocast(way: Way) -> Context:
        if way.dtype == 'fp32' or way.half_weights:
            return nullcontext
        return lambda: torch.autocast(way.device, DTYPES[way.dtype])


class Compile(Torch):
    """``torch.compile``; for a forward pass with the weights frozen into the program, as one deploys it."""

    runs_modules = False
    grads = torch.no_grad  # dynamo stumbles over tensors it makes in inference mode, e.g. of drop path's rate

    def wrapped(self, network: nn.Module, way: Way) -> Callable[[Tensor], object]:
        return torch.compile(network, options=None if way.train else {'freezing': True})


class Exported:
    """A runtime of :mod:`mmvittm.deploy`, on the file that is exported for it.

    The file is made in a temporary folder and gone once it is loaded.

    Args:
        file_format (Format): Exports the file and loads it.
    """

    devices = ('cpu',)
    options: tuple[str, ...] = ()
    frees_memory = False  # they keep arenas
    runs_modules = False

    def __init__(self, file_format: Format) -> None:
        self.format = file_format
        self.packages = file_format.packages

    def check(self, dtype: str) -> None:
        """Refuse a dtype that the format does not offer, and missing packages."""
        self.format.check(dtype)

    def prepare(self, network: nn.Module, images: Tensor, way: Way) -> Run:
        """One pass of the exported ``network`` on ``images`` ``(B, 3, H, W)``."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f'network{self.format.suffix}'
            self.format.export(network, images, path, way.dtype)
            session = self.format.load(path, way.dtype, way.threads)
        array = images.numpy()
        return lambda: session(array)


BACKENDS: dict[str, Torch | Exported] = dict(
    torch=Torch(),
    compile=Compile(),
    onnxruntime=Exported(FORMATS['onnx']),
    openvino=Exported(FORMATS['openvino']),
)


def inference(
    network: Callable[[Tensor], object],
    images: Tensor,
    autocast: Context = nullcontext,
    grads: Context = torch.inference_mode,
) -> Run:
    """A forward pass without gradients."""

    def run() -> object:
        with grads(), autocast():
            return network(images)

    return run


def training_step(network: Callable[[Tensor], object], images: Tensor, autocast: Context = nullcontext) -> Run:
    """Forward in training mode, the sum of all outputs as loss, and backward; the gradients are dropped again.

    There is no optimiser: its work depends on the parameters alone.
    """
    module = getattr(network, '_orig_mod', network)  # torch.compile's
    module.train()
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def run() -> None:
        with autocast():
            outputs = network(images)
        sum(output.float().sum() for output in tensors_in(outputs)).backward()
        for parameter in parameters:
            parameter.grad = None

    return run


def tensors_in(outputs: object) -> Iterable[Tensor]:
    """All tensors of nested tuples and lists."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, (tuple, list)):
        for output in outputs:
            yield from tensors_in(output)


def captured(run: Run) -> Run:
    """``run`` as a CUDA graph, which spares launching its kernels one by one."""
    # Written without a GPU at hand and never run on one.
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
