"""Draw what a ViTTM reads from memory and writes to it for one image, block by block.

OUT.png is an overview. OUT.html is an interactive page that needs no network: click a process token to see where it
reads and writes, or a memory token to see who reads and writes it. Both show the exact weights of the read/write heads,
the tokens of both streams, and the effective receptive field of one token of each.
"""

import argparse
import base64
import gzip
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from torch import Tensor, nn

from mmvittm.apis.cli import run_tool
from mmvittm.apis.config import load_config
from mmvittm.apis.config_errors import in_scope
from mmvittm.apis.data import build_unloaded, innermost_datasets, read_label_map
from mmvittm.apis.inference import Predictor, read_image
from mmvittm.apis.memory import Recording, Transfer, find_backbone, principal_colours, receptive_fields, record
from mmvittm.deploy.predict import load_predictor
from mmvittm.errors import UserError
from mmvittm.fileio import atomic_path
from mmvittm.models import ViTTM
from mmvittm.models.streams import Grids, Streams

matplotlib.use('Agg')
from matplotlib import pyplot as plt

TEMPLATE = Path(__file__).with_suffix('.html')
MOST_BYTES = 19e6  # of the attention maps in the page
MOST_ROWS = 6  # blocks in the overview
COLUMNS = ('it reads', 'it writes to', 'process tokens', 'memory tokens', 'field, process token', 'field, memory token')
TRANSFERS = dict(process='read', memory='write')  # that updates the tokens of a stream
COLOURS = dict(process='#d9480f', memory='#1864ab')
STATES = dict(
    colours='principal components',
    norm='token norm',
    change='change by read/write',
    field='receptive field (log)',
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', type=Path, help='config of a model with a ViTTM')
    parser.add_argument('checkpoint', type=Path, help='checkpoint file')
    parser.add_argument('image', type=Path, help='image file')
    parser.add_argument('--out', type=Path, help='output files without ending (default: memory_IMAGE)')
    parser.add_argument('--truth', type=Path, help="label map (default: the image's own, if it is in the test data)")
    parser.add_argument(
        '--token', type=int, nargs=2, metavar=('ROW', 'COLUMN'), help='process token, from 1 (default: the middle)'
    )
    parser.add_argument('--blocks', type=int, nargs='+', metavar='N', help='blocks, from 1 (default: all)')
    return parser.parse_args()


@dataclass
class View:
    """All that is drawn of one image. Blocks are the chosen ones; ``fields`` are those of ``tokens``."""

    name: str
    image: np.ndarray  # (H, W, 3), RGB, as the network sees it
    label_maps: dict[str, np.ndarray]  # painted prediction and truth
    legend: list[tuple]  # colour or None, and text
    recording: Recording
    numbers: list[int]  # of the blocks, from 1
    depth: int  # of the model
    cells: dict[str, list[float]]  # height and width of the tokens of each stream, in pixels
    tokens: tuple[int, int]  # a process and a memory token at one place
    fields: list[Streams]


def run_model(args: argparse.Namespace) -> View:
    """Run the model on the image.

    Raises:
        UserError: If a file cannot be read, or the model has no such block or token.
    """
    pixels = read_image(args.image)
    predictor = load_predictor(args.config, args.checkpoint)
    backbone = find_backbone(predictor.model)
    label_maps, legend = predict(predictor, pixels, args)
    image, batch = prepare(predictor.model, pixels)
    grids, blocks = record(backbone, batch)
    numbers = args.blocks or list(range(1, len(blocks) + 1))
    if not set(numbers) <= set(range(1, len(blocks) + 1)):
        raise UserError(f'--blocks {" ".join(map(str, numbers))}: the model has blocks 1 to {len(blocks)}')
    cells = cell_sizes(backbone, grids, image.shape)
    tokens = token_at(args.token or [side // 2 + 1 for side in grids.process], grids, cells)
    fields = receptive_fields(backbone, batch, tokens)
    chosen = Recording(grids, [blocks[number - 1] for number in numbers])
    fields = [fields[number - 1] for number in numbers]
    name = f'{args.config.stem}, {args.image.name}'
    return View(name, image, label_maps, legend, chosen, numbers, len(blocks), cells, tokens, fields)


def prepare(model: nn.Module, image: np.ndarray) -> tuple[np.ndarray, Tensor]:
    """Run the test pipeline; return the image as the network sees it, RGB, and the normalised batch of one."""
    steps = model.cfg.test_pipeline[1:]  # the first one loads the file
    shape = image.shape[:2]
    with in_scope(model.cfg):
        packed = Compose(steps)(dict(img=image, img_shape=shape, ori_shape=shape))
    batch = model.data_preprocessor(pseudo_collate([packed]), False)['inputs']
    pixels = packed['inputs'].permute(1, 2, 0).numpy()[..., ::-1]
    padding = [(0, have - want) for have, want in zip(batch.shape[2:], pixels.shape, strict=False)]
    return np.pad(pixels, [*padding, (0, 0)]).astype(np.uint8), batch


def predict(
    predictor: Predictor, image: np.ndarray, args: argparse.Namespace
) -> tuple[dict[str, np.ndarray], list[tuple]]:
    """Return painted prediction and truth of a segmentor, none of a classifier, and the legend."""
    prediction = predictor.predict(image)
    _, legend = predictor.task.draw(image, prediction, predictor.classes, predictor.palette)
    if predictor.task.name != 'segmentation':
        if args.truth:
            raise UserError('--truth is the label map of a segmentor, and this is a classifier: leave it out')
        return {}, legend
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(predictor.palette)] = predictor.palette
    labels = read_truth(load_config(args.config), args.image, args.truth, len(predictor.classes))
    return dict(prediction=palette[prediction]) | ({} if labels is None else dict(truth=palette[labels])), legend


def read_truth(cfg: Config, image: Path, given: Path | None, num_classes: int) -> np.ndarray | None:
    """Read the given label map, or that of an image of the test data, as the config's data set reads it."""
    with in_scope(cfg):
        entry = dict(label_map=None, reduce_zero_label=False, seg_fields=[])
        if 'test_dataloader' in cfg:
            built = build_unloaded(next(innermost_datasets(cfg.test_dataloader.dataset)))
            entry |= {key: getattr(built, key) for key in ('label_map', 'reduce_zero_label') if hasattr(built, key)}
            if hasattr(built, 'label_map') and not given:  # a data set of files
                with suppress(OSError, UserError):  # the data need not be on this machine
                    paths = {
                        Path(each['img_path']).resolve(): each.get('seg_map_path') for each in built.load_data_list()
                    }
                    given = paths.get(image.resolve())
        if not given:
            return None
        return read_label_map(entry | dict(seg_map_path=str(given)), num_classes)


def cell_sizes(backbone: ViTTM, grids: Grids, size: Sequence[int]) -> dict[str, list[float]]:
    """Height and width of the tokens of both streams in pixels; tokens that are no patches share the image equally."""
    return {
        stream: list(
            getattr(getattr(backbone, f'{stream}_embed'), 'patch_size', (size[0] / grid[0], size[1] / grid[1]))
        )
        for stream, grid in grids._asdict().items()
    }


def token_at(place: Sequence[int], grids: Grids, cells: dict[str, list[float]]) -> tuple[int, int]:
    """Return the process token of a row and column, from 1, and the memory token at its centre."""
    rows, columns = grids.process
    row, column = place
    if not (1 <= row <= rows and 1 <= column <= columns):
        raise UserError(f'--token {row} {column}: the process tokens have {rows} rows and {columns} columns, from 1')
    y, x = ((at - 0.5) * side for at, side in zip(place, cells['process'], strict=True))
    memory_row, memory_column = (
        min(int(at / side), most - 1) for at, side, most in zip((y, x), cells['memory'], grids.memory, strict=True)
    )
    return (row - 1) * columns + column - 1, memory_row * grids.memory[1] + memory_column


def overview(view: View) -> plt.Figure:
    """Draw the image and its label maps, and below them some blocks as rows."""
    blocks = view.recording.blocks
    rows = np.unique(np.linspace(0, len(blocks) - 1, MOST_ROWS).round().astype(int))
    shape = len(rows) + 1, len(COLUMNS)
    figure, axes = plt.subplots(*shape, figsize=(13, 2.2 * len(rows) + 2.6), layout='constrained', squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    draw_label_maps(axes[0, :4], view)
    for axis, (title, lines) in zip(axes[0, 4:], curves(view).items(), strict=True):
        draw_curves(axis, view.numbers, title, lines)
    colours = {stream: principal_colours([getattr(block.tokens, stream) for block in blocks]) for stream in TRANSFERS}
    for line, index in zip(axes[1:], rows, strict=True):
        draw_block(line, view, index, {stream: each[index] for stream, each in colours.items()})
    for axis, title in zip(axes[1], COLUMNS, strict=True):
        axis.set_title(title, fontsize=10)
    return figure


def show(axis: plt.Axes, view: View, pixels: np.ndarray | Tensor, marked: bool = False, **options) -> None:
    """Draw ``pixels`` over the whole image, with a box around the process token if ``marked``."""
    height, width = view.image.shape[:2]
    axis.imshow(np.asarray(pixels), extent=(0, width, height, 0), interpolation='nearest', **options)
    if marked:
        row, column = divmod(view.tokens[0], view.recording.grids.process[1])
        height, width = view.cells['process']
        box = plt.Rectangle((column * width, row * height), width, height, fill=False, color='white', linewidth=1.5)
        axis.add_patch(box)


def draw_label_maps(axes: np.ndarray, view: View) -> None:
    """Draw the image, prediction and truth, and the legend into the last of four axes."""
    images = {'image, process token': view.image} | view.label_maps
    for axis in axes:
        axis.axis('off')
    for axis, (title, pixels) in zip(axes, images.items(), strict=False):
        show(axis, view, pixels, marked=pixels is view.image)
        axis.set_title(title, fontsize=10)
    handles = [plt.Rectangle((0, 0), 1, 1, color=np.array(colour or (255,) * 3) / 255) for colour, _ in view.legend]
    axes[-1].legend(handles, [text for _, text in view.legend], loc='center', fontsize=9, frameon=False)


def draw_curves(axis: plt.Axes, numbers: list[int], title: str, lines: dict[str, list]) -> None:
    for stream, values in lines.items():
        axis.plot(numbers, np.array(values, float), '.-', color=COLOURS[stream], label=stream)
    axis.set(ylim=(0, None))
    axis.set_title(title, fontsize=10)
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, integer=True))
    axis.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    axis.legend(fontsize=8, frameon=False)


def draw_block(axes: np.ndarray, view: View, index: int, colours: dict[str, Tensor]) -> None:
    """Draw the columns of :data:`COLUMNS`."""
    grids, block = view.recording.grids, view.recording.blocks[index]
    axes[0].set_ylabel(f'block {view.numbers[index]}')
    maps = [block.read.weights[:, view.tokens[0]], block.write and block.write.weights[..., view.tokens[0]]]
    for axis, weights in zip(axes, maps, strict=False):
        if weights is None:
            axis.axis('off')
        else:
            show(axis, view, weights.mean(0).reshape(grids.memory), marked=True, cmap='inferno')
    for axis, (stream, grid) in zip(axes[2:4], grids._asdict().items(), strict=True):
        show(axis, view, colours[stream].reshape(*grid, 3))
    for axis, field in zip(axes[4:], view.fields[index], strict=True):
        show(axis, view, decades(field), cmap='viridis')


def curves(view: View) -> dict[str, dict[str, list]]:
    """Means over the tokens by block, for each stream: of the norms, and of the changes."""
    blocks = view.recording.blocks
    changes = {stream: [getattr(block, name) for block in blocks] for stream, name in TRANSFERS.items()}
    return {
        'mean token norm': {s: [mean(block.norms[s]) for block in blocks] for s in TRANSFERS},
        'mean change by read/write': {s: [each and mean(each.change) for each in changes[s]] for s in TRANSFERS},
    }


def mean(values: Tensor) -> float:
    return round(values.mean().item(), 4)


def decades(field: Tensor, side: int = 224, number: float = 5.0) -> Tensor:
    """Shrink a receptive field by averaging, and map its largest ``number`` decades to 0 … 1."""
    stride = max(1, -(-max(field.shape) // side))
    field = nn.functional.avg_pool2d(field[None, None], stride, ceil_mode=True)[0, 0]
    return (1 + (field / field.max().clamp_min(1e-30)).clamp_min(1e-30).log10() / number).clamp_min(0)


def page(view: View) -> str:
    """Fill the template.

    Raises:
        UserError: If the maps take too much space.
    """
    blocks, heads = packed_maps(view)
    count = view.recording.blocks[0].read.weights.shape[0]
    data = dict(
        name=view.name,
        image=data_uri(view.image, '.jpg'),
        size=view.image.shape[:2],
        grids=view.recording.grids._asdict(),
        cells=view.cells,
        token=view.tokens[0],
        depth=view.depth,
        blocks=blocks,
        heads=heads,
        mean_of=f'mean of {count}' if heads < count else 'mean',
        label_maps={title: data_uri(pixels) for title, pixels in view.label_maps.items()},
        legend=view.legend,
        curves=curves(view),
        states=states(view),
        state_titles=STATES,
        colormap=(255 * matplotlib.colormaps['inferno'](np.arange(256))[:, :3]).round().astype(int).tolist(),
    )
    # a string in it must not end the script
    return TEMPLATE.read_text(encoding='utf-8').replace('/*DATA*/null', json.dumps(data).replace('</', '<\\/'))


def packed_maps(view: View) -> tuple[list[dict], int]:
    """Pack the maps of all attention heads, or of their mean if that takes too much space; return their number too."""
    for pick in (lambda weights: weights, lambda weights: weights.mean(0, keepdim=True)):
        packed = [
            dict(number=number, read=pack_map(block.read, pick), write=pack_map(block.write, pick))
            for number, block in zip(view.numbers, view.recording.blocks, strict=True)
        ]
        size = len(json.dumps(packed))
        if size < MOST_BYTES:
            return packed, len(pick(view.recording.blocks[0].read.weights))
    raise UserError(
        f'the maps of {len(packed)} blocks take {size / 1e6:.0f} MB in the page: choose fewer, '
        'for instance --blocks 1 6 12, or a smaller image'
    )


def pack_map(transfer: Transfer | None, pick: Callable[[Tensor], Tensor]) -> dict | None:
    if transfer is None:
        return None
    values, low, high = map(pack, quantise(pick(transfer.weights).numpy()))
    return dict(values=values, low=low, high=high)


def quantise(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quantise ``(…, N)`` to uint8 between the minimum and maximum of each row; return them as well, in fp32."""
    low, high = (extreme(-1, keepdims=True).astype(np.float32) for extreme in (weights.min, weights.max))
    levels = (weights - low) / np.maximum(high - low, np.float32(1e-30)) * 255
    return levels.round().astype(np.uint8), low, high


def pack(values: np.ndarray) -> str:
    return base64.b64encode(gzip.compress(values.tobytes(), 6, mtime=0)).decode()


def states(view: View) -> dict[str, dict[str, list]]:
    """Images of the tokens of each stream after each block, by the keys of :data:`STATES`."""
    result = {}
    for (stream, grid), token in zip(view.recording.grids._asdict().items(), view.tokens, strict=True):
        blocks = view.recording.blocks
        place = f'of token ({token // grid[1] + 1}, {token % grid[1] + 1})'
        changes = [getattr(block, TRANSFERS[stream]) for block in blocks]
        colours = principal_colours([getattr(block.tokens, stream) for block in blocks])
        fields = [decades(getattr(field, stream)) for field in view.fields]
        result[stream] = dict(
            colours=[dict(image=data_uri(each.reshape(*grid, 3).numpy())) for each in colours],
            norm=[painted(block.norms[stream].reshape(grid), '{:.1f} to {:.1f}') for block in blocks],
            change=[each and painted(each.change.reshape(grid), '{:.1%} to {:.1%}') for each in changes],
            field=[painted(each, place) for each in fields],
        )
    return result


def painted(values: Tensor, note: str) -> dict:
    """Encode values ``(rows, columns)`` as an image, with their range as a note."""
    low, high = values.min().item(), values.max().item()
    scaled = (values - low) / max(high - low, 1e-12)
    return dict(image=data_uri(matplotlib.colormaps['viridis'](scaled.numpy())[..., :3]), note=note.format(low, high))


def data_uri(pixels: np.ndarray, suffix: str = '.png') -> str:
    """Encode an RGB image, uint8 or floats in 0 … 1."""
    pixels = pixels if pixels.dtype == np.uint8 else (255 * pixels).round().astype(np.uint8)
    encoded = cv2.imencode(suffix, np.ascontiguousarray(pixels[..., ::-1]))[1]
    return f'data:image/{suffix[1:].replace("jpg", "jpeg")};base64,{base64.b64encode(encoded).decode()}'


def main() -> None:
    args = parse_args()
    out = args.out or Path(f'memory_{args.image.stem}')
    files = [out.with_name(out.name + suffix) for suffix in ('.png', '.html')]
    with atomic_path(files[0]) as image, atomic_path(files[1]) as html:
        view = run_model(args)
        html.write_text(page(view), encoding='utf-8')
        figure = overview(view)
        figure.savefig(image, dpi=90)
        plt.close(figure)
    print(f'Wrote {files[0]} and {files[1]}')


if __name__ == '__main__':
    run_tool(main)
