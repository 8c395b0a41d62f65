"""Show what other places of a scene know of one place, a box of the image.

The model predicts the scene three times in one pass: as it is, with the box replaced by its mean colour, and with the
patches of the box shuffled within their rows, which keeps colours, textures and latitudes and destroys shapes. The
figure maps the share of the class probabilities that changes; its means inside the box and outside are printed.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from mmvittm.apis.cli import run_tool
from mmvittm.errors import UserError
from mmvittm.fileio import atomic_path
from mmvittm.models import PatchTokens, ViTTM
from mmvittm.scenes import load_segmentor
from mmvittm.scenes.inputs import padded_size, read_normalized
from mmvittm.scenes.rasters import Window, open_raster

WIDTH = 900  # pixels of a map in the figure


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of a segmentor with a ViTTM')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('image', type=Path, help='image that fits into memory with its activations')
    box_help = 'left, top, width and height in pixels, rounded inwards to whole memory patches'
    parser.add_argument('--box', type=int, nargs=4, required=True, metavar=('X', 'Y', 'W', 'H'), help=box_help)
    parser.add_argument('--out', type=Path, default=Path('influence.png'), help='figure (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the shuffling (default: 0)')
    return parser.parse_args()


def whole_patches(box: list[int], patch: tuple[int, int], size: tuple[int, int]) -> Window:
    """The window of the whole memory patches in a box of left, top, width and height.

    Raises:
        UserError: If there is none within the image.
    """
    left, top, width, height = box
    top, left = (-(-max(start, 0) // side) * side for start, side in zip((top, left), patch, strict=True))
    bottom, right = min(box[1] + height, size[0]), min(box[0] + width, size[1])
    height, width = (
        (end - start) // side * side for start, end, side in ((top, bottom, patch[0]), (left, right, patch[1]))
    )
    if height <= 0 or width <= 0:
        text = ' '.join(map(str, box))
        raise UserError(
            f'--box {text} holds no patch of {patch[1]}×{patch[0]} of the image of {size[1]}×{size[0]}: choose another'
        )
    if (height, width) == size:
        raise UserError('--box is the whole image, and nothing is outside: choose a smaller one')
    return Window(top, left, height, width)


def alterations(image: Tensor, box: Window, patch: tuple[int, int], seed: int) -> dict[str, Tensor]:
    """The altered images ``(1, 3, H, W)`` by name."""
    inside = image[(..., *box.slices)]
    patches = inside.unflatten(3, (-1, patch[1])).unflatten(2, (-1, patch[0]))  # (1, 3, rows, height, columns, width)
    order = torch.rand(patches.shape[2], patches.shape[4], generator=torch.Generator().manual_seed(seed)).argsort(1)
    shuffled = patches.gather(4, order[None, None, :, None, :, None].expand_as(patches))
    altered = {}
    for name, pixels in {
        'replaced by its mean colour': inside.mean((2, 3), keepdim=True).expand_as(inside),
        'patches shuffled in rows': shuffled.flatten(4).flatten(2, 3),
    }.items():
        altered[name] = image.clone()
        altered[name][(..., *box.slices)] = pixels
    return altered


@torch.inference_mode()
def probabilities(model: nn.Module, image: Tensor, size: tuple[int, int]) -> Tensor:
    """Class probabilities ``(K, H, W)`` of one pass."""
    shape = tuple(image.shape[2:])
    logits = model.whole_inference(image, [dict(img_shape=shape, ori_shape=shape, pad_shape=shape)])
    return logits[0, :, : size[0], : size[1]].softmax(0)


def draw(changes: dict[str, Tensor], box: Window) -> Figure:
    """Draw the changes ``(H, W)`` beside each other, with the box framed."""
    height, width = next(iter(changes.values())).shape
    figure = Figure(figsize=(len(changes) * WIDTH / 100, WIDTH / 100 * height / width + 0.5), layout='constrained')
    axes = figure.subplots(1, len(changes), squeeze=False)[0]
    step = max(1, width // WIDTH)
    for axis, (name, change) in zip(axes, changes.items(), strict=True):
        drawn = axis.imshow(
            change[::step, ::step].clamp_min(1e-4), norm=LogNorm(1e-4, 1), extent=(0, width, height, 0), cmap='magma'
        )
        axis.add_patch(Rectangle((box.left, box.top), box.width, box.height, fill=False, color='white'))
        axis.set_title(name, fontsize=14)
        axis.axis('off')
    figure.colorbar(drawn, ax=axes, label='share of the probabilities that changes')
    return figure


def main() -> None:
    args = parse_args()
    model = load_segmentor(args.config, args.checkpoint)
    if not isinstance(model.backbone, ViTTM) or not isinstance(model.backbone.memory_embed, PatchTokens):
        raise UserError(
            f'config {args.config} has no ViTTM with a memory of PatchTokens as its backbone: choose another'
        )
    patch = model.backbone.memory_embed.patch_size
    with open_raster(args.image) as raster, atomic_path(args.out) as path:
        box = whole_patches(args.box, patch, raster.size)
        image = read_normalized(model, raster, Window(0, 0, *padded_size(model, raster)))
        outside = torch.ones(raster.size, dtype=torch.bool)
        outside[box.slices] = False
        before, changes = probabilities(model, image, raster.size), {}
        for name, altered in alterations(image, box, patch, args.seed).items():
            change = (probabilities(model, altered, raster.size) - before).abs().sum(0) / 2
            changes[name] = change.cpu()
            inside, beyond = (float(changes[name][where].mean()) for where in (~outside, outside))
            most = np.percentile(changes[name][outside], 99)
            print(
                f'{name}: {inside:.1%} of the probabilities change inside the box, {beyond:.2%} outside; '
                f'in 99 % of the pixels there less than {most:.1%}'
            )
        draw(changes, box).savefig(path, dpi=100)
    print(f'Wrote {args.out}')


if __name__ == '__main__':
    run_tool(main)
