"""Tracing of a network to the graph that every format converts."""

import copy

import torch
from mmengine.utils import digit_version
from mmpretrain.models import VisionTransformer
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor, nn

from ..errors import UserError
from ..models.token_embeds import TokenEmbed

OLDEST_TORCH = '2.6'


@torch.no_grad()
def export_program(network: nn.Module, images: Tensor) -> 'torch.export.ExportedProgram':
    """Trace ``network``, which is in eval mode, for the size of ``images`` ``(B, 3, H, W)`` and any batch size.

    The position embeddings are resampled here and not in the graph: a runtime would do it for every image, with an
    antialiased bicubic kernel of its own whose result differs by 8e-3.

    Raises:
        UserError: If torch is too old, or the network does not take images of this size.
    """
    if digit_version(torch.__version__) < digit_version(OLDEST_TORCH):
        raise UserError(f'export needs torch {OLDEST_TORCH} or newer: this is {torch.__version__}')
    network = copy.deepcopy(network)
    resample = {TokenEmbed: _resample_tokens, VisionTransformer: _resample_vit}
    hooks = [
        module.register_forward_hook(hook)
        for module in network.modules()
        for kind, hook in resample.items()
        if isinstance(module, kind)
    ]
    network(images[:1])
    for hook in hooks:
        hook.remove()
    example = images[:1].repeat(2, 1, 1, 1)  # a batch of one would become a constant
    batch = torch.export.Dim('batch', min=1)
    return torch.export.export(network, (example,), dynamic_shapes=({0: batch},), strict=False)


def _resample_tokens(embed: TokenEmbed, inputs: tuple, output: tuple[Tensor, tuple]) -> None:
    grid = output[1]
    embed.pos_embed, embed.grid = nn.Parameter(embed.positions(grid), requires_grad=False), grid


def _resample_vit(vit: VisionTransformer, inputs: tuple[Tensor], output: tuple) -> None:
    grid = vit.patch_embed(inputs[0])[1]
    pos_embed = resize_pos_embed(vit.pos_embed, vit.patch_resolution, grid, vit.interpolate_mode, vit.num_extra_tokens)
    vit.pos_embed, vit.patch_resolution = nn.Parameter(pos_embed, requires_grad=False), grid
