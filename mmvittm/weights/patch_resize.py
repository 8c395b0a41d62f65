"""Resizing patch embeddings so that they see in resized patches what they saw in the original ones."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError

KERNELS = ('bilinear', 'bicubic')


def resize_matrix(source: int, target: int, kernel: str = 'bilinear') -> Tensor:
    """Resizing along one axis, as a matrix.

    Args:
        source (int): Pixels before.
        target (int): Pixels after.
        kernel (str): 'bilinear' or 'bicubic', both with antialiasing, as images are made smaller.

    Returns:
        Tensor: ``(target, source)`` in fp64; multiplied by a column of pixels it gives the resized column.

    Raises:
        UserError: If the kernel is unknown.
    """
    if kernel not in KERNELS:
        raise UserError(f'unknown kernel {kernel!r}: choose one of {", ".join(KERNELS)}')
    # Each column of the identity is an image of one bright pixel; the width stays, which leaves it alone.
    pixels = torch.eye(source, dtype=torch.float64)[None, None]
    return F.interpolate(pixels, (target, source), mode=kernel, align_corners=False, antialias=True)[0, 0]


def resize_patch_embed(weight: Tensor, patch_size: tuple[int, int], kernel: str = 'bilinear') -> Tensor:
    r"""Resize the convolution of a patch embedding by the pseudo-inverse of resizing a patch.

    With :math:`B` the matrix that resizes a patch, the result is :math:`(B^\top)^+ w`, whose product with a resized
    patch is, over all patches, closest to that of :math:`w` with the original one: equal when patches grow, and equal
    for the patches that resizing loses nothing of when they shrink (FlexiViT, `arXiv 2212.08013
    <https://arxiv.org/abs/2212.08013>`_, §3.4). Resizing is separable, and so is the pseudo-inverse.

    Args:
        weight (Tensor): ``(C, in_channels, height, width)``.
        patch_size (tuple[int, int]): Height and width wanted, in pixels.
        kernel (str): 'bilinear', as in FlexiViT, or 'bicubic'.

    Returns:
        Tensor: ``(C, in_channels, *patch_size)`` in the dtype of ``weight``; computed in fp64.

    Raises:
        UserError: If the kernel is unknown.
    """
    if tuple(weight.shape[2:]) == tuple(patch_size):
        return weight
    rows, columns = (
        torch.linalg.pinv(resize_matrix(source, target, kernel).T)
        for source, target in zip(weight.shape[2:], patch_size, strict=True)
    )
    return (rows @ weight.double() @ columns.T).to(weight.dtype)
