"""From a network to the graph that every format starts from."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from mmengine.utils import digit_version
from mmpretrain.models import VisionTransformer
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor, nn

from ..errors import UserError
from ..models.token_embeds import TokenEmbed

OLDEST_TORCH = '2.6'


def export_program(network: nn.Module, images: Tensor) -> 'torch.export.ExportedProgram':
    """Trace ``network`` for the size of ``images`` and any batch size, with its positions baked for that size.

    Args:
        network (nn.Module): From images to one tensor or several, in eval mode.
        images (Tensor): ``(B, 3, H, W)``.

    Raises:
        UserError: If torch is too old, or the network does not take images of that size.
    """
    if digit_version(torch.__version__) < digit_version(OLDEST_TORCH):
        raise UserError(f'exporting needs torch {OLDEST_TORCH} or newer, this is {torch.__version__}')
    # A batch of one would be taken for a constant.
    example = images[:1].repeat(2, 1, 1, 1)
    with torch.no_grad(), baked_positions(network, example):
        batch = torch.export.Dim('batch', min=1)
        return torch.export.export(network, (example,), dynamic_shapes=({0: batch},), strict=False)


@contextmanager
def baked_positions(network: nn.Module, images: Tensor) -> Iterator[None]:
    """Replace the position embeddings by those for the size of ``images`` for the time of the block.

    Resampling them is then no part of a graph: runtimes have an antialiased bicubic kernel of their own, whose result
    is 8e-3 off, and would run it for every image.
    """
    baking = {TokenEmbed: _bake_tokens, VisionTransformer: _bake_vit}
    with ExitStack() as restore:
        hooks = [
            module.register_forward_hook(partial(bake, restore))
            for module in network.modules()
            for kind, bake in baking.items()
            if isinstance(module, kind)
        ]
        try:
            network(images[:1])
        finally:
            for hook in hooks:
                hook.remove()
        yield


def _bake_tokens(restore: ExitStack, embed: TokenEmbed, inputs: tuple, output: tuple[Tensor, tuple]) -> None:
    _, grid = output
    _replace(restore, embed, pos_embed=nn.Parameter(embed.positions(grid), requires_grad=False), grid=grid)


def _bake_vit(restore: ExitStack, vit: VisionTransformer, inputs: tuple[Tensor], output: tuple) -> None:
    _, grid = vit.patch_embed(inputs[0][:1])
    pos_embed = resize_pos_embed(vit.pos_embed, vit.patch_resolution, grid, vit.interpolate_mode, vit.num_extra_tokens)
    _replace(restore, vit, pos_embed=nn.Parameter(pos_embed, requires_grad=False), patch_resolution=grid)


def _replace(restore: ExitStack, module: nn.Module, **attributes: object) -> None:
    for name, value in attributes.items():
        restore.callback(setattr, module, name, getattr(module, name))
        setattr(module, name, value)
