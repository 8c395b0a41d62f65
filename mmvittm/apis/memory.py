"""Look into a ViTTM: record what each block reads from memory and writes to it, and where its tokens look."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..models import ViTTM
from ..models.rw_heads import RWHead
from ..models.streams import Grid, Grids, Streams


class Transfer(NamedTuple):
    """A read or a write of one image, from N source to M query tokens."""

    weights: Tensor
    """attention map of each attention head, ``(h, M, N)``"""
    change: Tensor
    """norm of the update of each query token relative to that of the token, ``(M,)``"""


@dataclass
class Block:
    """Record of one block on one image.

    Attributes:
        read (Transfer): From memory to process tokens.
        write (Transfer, optional): From process to memory tokens; None in a last block whose write has no effect.
        tokens (Streams): Tokens after the block, ``(Np, C)`` and ``(Nm, C)``.
        norms (dict[str, Tensor]): Norms of the process tokens after the ViT block, before they are normalised for the
            write, ``(Np,)``, and of the memory tokens after the block, ``(Nm,)``.
    """

    read: Transfer | None = None
    write: Transfer | None = None
    tokens: Streams | None = None
    norms: dict[str, Tensor] = field(default_factory=dict)


class Recording(NamedTuple):
    """Record of a backbone on one image: the grids of its tokens, and its blocks in order."""

    grids: Grids
    blocks: list[Block]


def find_backbone(model: nn.Module) -> ViTTM:
    """Return the first ViTTM in a model.

    Raises:
        UserError: If there is none.
    """
    for module in model.modules():
        if isinstance(module, ViTTM):
            return module
    raise UserError('the model has no ViTTM, so it has no memory to look at: choose one with type mmvittm.ViTTM')


@torch.no_grad()
def record(backbone: ViTTM, image: Tensor) -> Recording:
    """Run a backbone on one image and record its blocks by forward hooks.

    Args:
        backbone (ViTTM): The backbone; it is left as it is.
        image (Tensor): Normalised image ``(1, in_channels, H, W)``.

    Raises:
        UserError: If a read/write head has no attention map, or reads and writes are by region.
    """
    if backbone.rw_region:
        raise UserError('a ViTTM with rw_region has a map for each region, which cannot be drawn: use one without')
    backbone, grids, blocks = _copy(backbone), {}, []
    for name in Grids._fields:
        getattr(backbone, f'{name}_embed').register_forward_hook(partial(_keep_grid, grids, name))
    for layer in backbone.layers:
        block = Block()
        layer.read_head.register_forward_hook(partial(_keep_transfer, block, 'read'))
        layer.vit_block.register_forward_hook(partial(_keep_norm, block))
        layer.write_head.register_forward_hook(partial(_keep_transfer, block, 'write'))
        layer.register_forward_hook(partial(_keep_tokens, blocks, block))
    backbone(image)
    return Recording(Grids(**grids), blocks)


def _keep_grid(grids: dict, name: str, embed: nn.Module, inputs: tuple, output: tuple[Tensor, Grid]) -> None:
    grids[name] = output[1]


def _keep_transfer(block: Block, name: str, head: RWHead, tokens: tuple[Tensor, Tensor], update: Tensor) -> None:
    change = update.norm(dim=-1) / tokens[1].norm(dim=-1)
    setattr(block, name, Transfer(head.attention_map(*tokens)[0], change[0]))


def _keep_norm(block: Block, vit_block: nn.Module, inputs: tuple, process: Tensor) -> None:
    block.norms['process'] = process[0].norm(dim=1)


def _keep_tokens(blocks: list[Block], block: Block, layer: nn.Module, inputs: tuple, streams: Streams) -> None:
    block.tokens = Streams(streams.process[0], streams.memory[0])
    block.norms['memory'] = block.tokens.memory.norm(dim=1)
    blocks.append(block)


def receptive_fields(backbone: ViTTM, image: Tensor, tokens: Sequence[int], probes: int = 4) -> list[Streams]:
    """Compute the effective receptive field of a process and of a memory token after each block.

    A field is the norm of the derivative of the token with respect to each pixel. The norm is estimated from
    derivatives of random signed sums of the token's channels, as the plain sum of normalised channels is constant. See
    `Understanding the Effective Receptive Field <https://arxiv.org/abs/1701.04128>`_ (Luo et al. 2016).

    Args:
        backbone (ViTTM): The backbone; it is left as it is.
        image (Tensor): Normalised image ``(1, in_channels, H, W)``.
        tokens (Sequence[int]): Index of the process and of the memory token.
        probes (int): Number of random sums.

    Returns:
        list[Streams]: For each block, the fields ``(H, W)`` of both tokens.
    """
    backbone, after = _copy(backbone), []
    for layer in backbone.layers:
        layer.register_forward_hook(lambda layer, inputs, streams: after.append(streams))
    images = image.repeat(probes, 1, 1, 1).requires_grad_()
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(2, (probes, backbone.embed_dims), generator=generator).to(image) * 2 - 1

    def derivative_norm(stream: Tensor, token: int) -> Tensor:
        options = dict(retain_graph=True, allow_unused=True, materialize_grads=True)
        [gradient] = torch.autograd.grad(stream[:, token], images, signs, **options)
        return gradient.square().sum(1).mean(0).sqrt()

    with torch.enable_grad():
        backbone(images)
        return [Streams(*map(derivative_norm, streams, tokens)) for streams in after]


def principal_colours(blocks: Sequence[Tensor]) -> list[Tensor]:
    """Map the tokens of one stream to RGB by their first three principal components, block by block.

    The components of a block are rotated towards those of the block before, so that colours change as little as
    possible from one block to the next.

    Args:
        blocks (Sequence[Tensor]): Tokens ``(N, C)`` after each block, ``C`` of 3 or more.

    Returns:
        list[Tensor]: ``(N, 3)`` in 0 … 1 for each block; the 1st and 99th percentile become 0 and 1.
    """
    colours, before = [], None
    for tokens in blocks:
        centred = tokens.float() - tokens.float().mean(0)
        scores = torch.linalg.svd(centred, full_matrices=False).U[:, :3]
        scores = F.pad(scores, (0, 3 - scores.shape[1]))  # fewer tokens have fewer components
        if before is not None:
            left, _, right = torch.linalg.svd(scores.T @ before)
            scores = scores @ left @ right
        before = scores
        low, high = scores.quantile(0.01, 0), scores.quantile(0.99, 0)
        colours.append(((scores - low) / (high - low).clamp_min(1e-12)).clamp(0, 1))
    return colours


def _copy(backbone: ViTTM) -> ViTTM:
    """Return a copy to hook into that calls the forward of its blocks and heads, in chunks or checkpoints of none."""
    backbone = copy.deepcopy(backbone).eval()
    backbone.memory_chunk, backbone.with_cp = None, False
    return backbone
