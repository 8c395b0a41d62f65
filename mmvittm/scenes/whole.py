"""A segmentor on a whole scene, whose activations and logits are never whole in memory.

The process tokens of a ViTTM with a fixed process grid do not grow with the image, and memory tokens never attend to
each other. So one pass over the image embeds it band by band and runs the blocks chunk by chunk; it keeps the process
tokens of every block. Given these, the memory after every block is a function of the patch alone, so a second pass
recomputes the maps of any window from its pixels and decodes them. The state between is one copy of the memory tokens.
"""

import itertools
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.models import EncoderDecoder
from mmseg.models.segmentors import CascadeEncoderDecoder
from rich.progress import Progress
from torch import Tensor, nn

from ..errors import UserError
from ..models import PatchTokens, ViTTM
from ..models.streams import Grid, Grids, merge_regions, split_regions, tokens_to_map
from ..weights.patch_resize import resize_matrix
from .inputs import padded_size, read_normalized, track
from .locality import measure_locality
from .rasters import Raster, Window

DEFAULT_CHUNK = 80**2  # tokens
_LEAST_CHUNK = 16**2
_TILE = 16  # windows begin at multiples of as many tokens, so that they share few tiles of a TIFF


class SceneModel:
    """A segmentor with the limits that whole scenes put on it.

    Args:
        model (EncoderDecoder): With a ViTTM whose memory is ``PatchTokens`` and whose process grid is fixed, and a
            convolutional decode head.

    Raises:
        UserError: If the model cannot run on a scene in parts.
    """

    def __init__(self, model: EncoderDecoder) -> None:
        _check(model)
        self.model = model
        self.backbone: ViTTM = model.backbone
        self.patch = self.backbone.memory_embed.patch_size
        self.depth = max(self.backbone.out_indices) + 1
        self.outputs = tuple(zip(self.backbone.out_indices, self.backbone.out_stream, strict=True))
        channels = [self.backbone.embed_dims * (2 if stream == 'concat' else 1) for _, stream in self.outputs]
        self.decoder = [model.neck, model.decode_head] if model.with_neck else [model.decode_head]
        self.locality = measure_locality(self.decoder, _decode, channels)

    def decode(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Run neck and decode head on maps ``(1, C, H, W)``; return logits ``(1, K, h, w)``."""
        return _decode(self.decoder, maps)

    def divide(self, grid: Grid) -> tuple[Grid, Grid]:
        """Return the process grid of a grid of memory tokens, and how many regions both have.

        Raises:
            UserError: If ``rw_region`` does not divide them.
        """
        process_grid = self.backbone.process_embed.grid_for(grid)
        return process_grid, self.backbone.regions_of(Grids(process_grid, grid))

    def nearest_size(self, grid: Grid) -> tuple[int, int] | None:
        """Return height and width in pixels of the nearest grid that ``rw_region`` divides; None if none is near."""
        for distance in range(1, max(grid)):
            steps = itertools.product(range(-distance, distance + 1), repeat=2)
            for rows, columns in ((grid[0] + a, grid[1] + b) for a, b in steps if distance in (abs(a), abs(b))):
                with suppress(UserError):
                    if min(rows, columns) > 0 and self.divide((rows, columns)):
                        return rows * self.patch[0], columns * self.patch[1]
        return None

    @property
    def bytes_per_token(self) -> int:
        """Bytes that a window needs per token, rounded up generously."""
        pixels = self.patch[0] * self.patch[1]
        logits = 3 * self.model.out_channels * pixels
        return 4 * (8 * self.backbone.embed_dims + 3 * 3 * pixels + self.locality.floats + logits)

    def state_bytes(self, size: tuple[int, int]) -> int:
        """Bytes of the memory tokens of a scene of ``size`` pixels."""
        tokens = -(-size[0] // self.patch[0]) * -(-size[1] // self.patch[1])
        return 4 * tokens * self.backbone.embed_dims

    def chunk_within(self, limit: float, size: tuple[int, int], resident: int) -> int:
        """Return the number of tokens of a chunk that fits into a memory limit.

        Args:
            limit (float): Bytes, for everything but the model and the libraries.
            size (tuple[int, int]): Height and width of the scene in pixels.
            resident (int): Bytes that image and labels take all the time.

        Raises:
            UserError: If not even a small chunk fits.
        """
        fixed = resident + self.state_bytes(size)
        least = max(_LEAST_CHUNK, (2 * self.locality.halo + 2 * self.locality.align) ** 2)
        chunk = int((limit - fixed) // self.bytes_per_token)
        if chunk < least:
            needed = 1.05 * (fixed + least * self.bytes_per_token) / 1e9  # more than two digits round off
            raise UserError(
                f'a scene of {size[0]}×{size[1]} pixels needs {needed:.2g} GB, more than the memory limit of '
                f'{limit / 1e9:.2g} GB: raise the limit, or slide over the scene'
            )
        return min(chunk, DEFAULT_CHUNK)


def _decode(modules: Iterable[nn.Module], maps: Any) -> Tensor:
    for module in modules:
        maps = module(maps)
    return maps


def _check(model: EncoderDecoder) -> None:
    if not isinstance(model, EncoderDecoder) or isinstance(model, CascadeEncoderDecoder):
        raise UserError(f'a {type(model).__name__} cannot segment a scene in one pass: use an EncoderDecoder')
    backbone = model.backbone
    if not isinstance(backbone, ViTTM):
        raise UserError(f'a {type(backbone).__name__} cannot see a scene in one pass: use a ViTTM, or slide over it')
    mixing, region = backbone.mixing_component, backbone.rw_region
    problems = {
        'memory_embed must be PatchTokens': not isinstance(backbone.memory_embed, PatchTokens),
        'process_embed must be PooledTokens, PooledCells or LearnedTokens': backbone.process_embed.from_image,
        f'{type(mixing).__name__} may mix memory tokens': mixing is not None,
        'rw_region must have all rows of the process grid': region and region[0] != backbone.process_embed.grid[0],
        'out_stream must be memory or concat': not {'memory', 'concat'}.issuperset(backbone.out_stream),
        'the decode head must have align_corners=False': model.align_corners,
    }
    if problem := next((problem for problem, found in problems.items() if found), None):
        raise UserError(f'this model cannot see a scene in one pass: {problem}; change the config, or slide over it')


class Scene:
    """A scene as a :class:`SceneModel` sees it whole.

    Args:
        model (SceneModel): The model, in eval mode.
        raster (Raster): The image.
        chunk (int): Tokens that are computed at a time.
        progress (Progress, optional): Shows the first pass.

    Raises:
        UserError: If the image is smaller than a patch, or its file is damaged.
    """

    def __init__(
        self, model: SceneModel, raster: Raster, chunk: int = DEFAULT_CHUNK, progress: Progress | None = None
    ) -> None:
        self.model = model
        self.raster = raster
        self.chunk = chunk
        patch = model.patch
        if raster.size[0] < patch[0] or raster.size[1] < patch[1]:
            raise UserError(
                f'a scene of {raster.size[0]}×{raster.size[1]} pixels is smaller than a patch of {patch[0]}×{patch[1]} '
                'pixels: enlarge it'
            )
        self.padded = padded_size(model.model, raster)
        self.grid = tuple(-(-side // step) for side, step in zip(self.padded, patch, strict=True))
        try:
            self.process_grid, self.regions = model.divide(self.grid)
        except UserError as error:
            size = model.nearest_size(self.grid)
            raise UserError(f'{error}, such as {size[0]}×{size[1]} pixels' if size else str(error)) from error
        embed = model.backbone.memory_embed
        self._positions = embed.pos_embed.detach().unflatten(1, embed.grid)[0]
        self._resample = [
            resize_matrix(source, target, 'bicubic').to(self._positions)
            for source, target in zip(embed.grid, self.grid, strict=True)
        ]
        with torch.inference_mode():
            self._run(progress)

    def _run(self, progress: Progress | None) -> None:
        """Run all blocks on the memory in chunks; keep the process tokens after each."""
        backbone, (rows, columns) = self.model.backbone, self.grid
        pooling = [
            F.adaptive_avg_pool1d(torch.eye(tokens), cells).to(self._positions)
            for tokens, cells in zip(self.grid, self.process_grid, strict=True)
        ]
        pooled = 0
        count = prod(self.regions)
        state = self._positions.new_empty(count, rows * columns // count, backbone.embed_dims)
        chunks = []
        step = max(1, self.chunk // columns)
        for top in track(progress, range(0, rows, step), 'embedding the image'):
            band = range(top, min(top + step, rows))
            tokens = self._embed(band, range(columns))
            band_map = tokens[0].unflatten(0, (len(band), columns))
            pooled = pooled + torch.einsum('rwc,rg,wh->cgh', band_map, pooling[0][band], pooling[1])
            place = slice(*(row * columns // count for row in (band.start, band.stop)))
            chunks.append(state[:, place].copy_(split_regions(tokens, (len(band), columns), self.regions)))
        process = split_regions(backbone.process_embed(pooled[None])[0], self.process_grid, self.regions)
        bias = backbone.attention_bias(self.process_grid, self.regions)
        self.process = []
        for index in track(progress, range(self.model.depth), 'running the blocks'):
            process = backbone.layers[index].forward_chunks(
                process,
                chunks,
                backbone.read_fusion,
                backbone.write_fusion,
                write=index + 1 < self.model.depth,
                regions=backbone.regions_together(self.regions),
                bias=bias,
            )
            self.process.append(process)

    def _embed(self, rows: range, columns: range) -> Tensor:
        """Return the memory tokens ``(1, N, C)`` of a part of the grid before the first block."""
        patch = self.model.patch
        part = Window(rows.start * patch[0], columns.start * patch[1], len(rows) * patch[0], len(columns) * patch[1])
        pixels = read_normalized(self.model.model, self.raster, part)
        tokens, _ = self.model.backbone.memory_embed.project(pixels)
        row_weights = self._resample[0][rows.start : rows.stop]
        column_weights = self._resample[1][columns.start : columns.stop]
        positions = torch.einsum(
            'ws,rsc->rwc', column_weights, torch.einsum('rs,stc->rtc', row_weights, self._positions)
        )
        return tokens + positions.flatten(0, 1)

    def maps(self, rows: range, columns: range) -> tuple[Tensor, ...]:
        """Compute the backbone's outputs for a part of the grid.

        Args:
            rows (range): Rows of tokens.
            columns (range): Columns of tokens.

        Returns:
            tuple[Tensor, ...]: Maps ``(1, C, rows, columns)``, or ``(1, 2C, …)`` for the stream 'concat'.
        """
        width = self.grid[1] // self.regions[1]
        borders = [columns.start, *range(columns.start // width * width + width, columns.stop, width), columns.stop]
        parts = [self._maps_in_region(rows, range(*ends), ends[0] // width) for ends in itertools.pairwise(borders)]
        return tuple(torch.cat(maps, 3) for maps in zip(*parts, strict=True))

    def _maps_in_region(self, rows: range, columns: range, region: int) -> tuple[Tensor, ...]:
        backbone = self.model.backbone
        memory, after = self._embed(rows, columns), {}
        for index, process in enumerate(self.process):
            layer = backbone.layers[index]
            write_head = partial(layer.write_head.update, layer.write_head.summarize(process[region : region + 1]))
            memory = layer.write(layer.read_norm(memory), write_head, backbone.write_fusion)
            if index in backbone.out_indices:
                after[index] = tokens_to_map(memory, (len(rows), len(columns)))
        return tuple(
            torch.cat([self._process_map(index, rows, columns), after[index]], 1)
            if stream == 'concat'
            else after[index]
            for index, stream in self.model.outputs
        )

    def _process_map(self, index: int, rows: range, columns: range) -> Tensor:
        process = tokens_to_map(merge_regions(self.process[index], self.process_grid, self.regions), self.process_grid)
        up, across = (
            bilinear(part, cells / total, cells).to(process)
            for part, cells, total in zip((rows, columns), process.shape[2:], self.grid, strict=True)
        )
        return up @ process @ across.T

    def logits(self, window: Window) -> Tensor:
        """Compute the logits ``(1, K, height, width)`` of a window, which lies in the image."""
        upscale = self.model.locality.upscale
        starts, stops = window[:2], (window.top + window.height, window.left + window.width)
        scales = [tokens * upscale / pixels for tokens, pixels in zip(self.grid, self.padded, strict=True)]
        parts = [
            self._tokens_of(start, stop, scale, total)
            for start, stop, scale, total in zip(starts, stops, scales, self.grid, strict=True)
        ]
        logits = self.model.decode(self.maps(*parts))
        rows, columns = (
            bilinear(range(start, stop), scale, logits.shape[dim], part.start * upscale).to(logits)
            for dim, start, stop, scale, part in zip((2, 3), starts, stops, scales, parts, strict=True)
        )
        return rows @ logits @ columns.T

    def _tokens_of(self, start: int, stop: int, scale: float, total: int) -> range:
        """Return the tokens along one axis that the logits of pixels ``start`` … ``stop`` depend on."""
        _, align, halo, _ = self.model.locality
        upscale = self.model.locality.upscale
        first = max(0, int((start + 0.5) * scale - 0.5) // upscale - halo) // align * align
        last = -(-(int((stop - 0.5) * scale - 0.5) // upscale + 2 + halo) // align) * align
        return range(first, min(last, total))

    def windows(self) -> list[Window]:
        """Return windows that cover the image, row by row; each has at most ``chunk`` tokens with its halo."""
        around = 2 * (self.model.locality.halo + self.model.locality.align) + 2
        side = max(int(self.chunk**0.5) - around, 1)
        side = max(side // _TILE * _TILE, min(side, _TILE))
        height, width = (side * step for step in self.model.patch)
        return [
            Window(top, left, min(height, self.raster.size[0] - top), min(width, self.raster.size[1] - left))
            for top in range(0, self.raster.size[0], height)
            for left in range(0, self.raster.size[1], width)
        ]


def bilinear(part: range, scale: float, length: int, offset: int = 0) -> Tensor:
    """Return the matrix ``(len(part), length)`` of ``F.interpolate`` without ``align_corners`` along one axis, in part.

    Args:
        part (range): Indices of the output to compute.
        scale (float): Length of the whole input divided by that of the whole output.
        length (int): Length of the part of the input. Where it ends, its last element is repeated.
        offset (int): Index of the first element of this part in the whole input.
    """
    output = torch.arange(part.start, part.stop, dtype=torch.float64)
    position = ((output + 0.5) * scale - 0.5).clamp_min(0) - offset
    distance = position.clamp(0, length - 1)[:, None] - torch.arange(length)
    return (1 - distance.abs()).clamp_min(0)
