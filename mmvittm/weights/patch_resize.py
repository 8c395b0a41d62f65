"""Resizing of patch embeddings that keeps their outputs on resized patches (FlexiViT)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError

KERNELS = ('bilinear', 'bicubic')


def resize_matrix(source: int, target: int, kernel: str = 'bilinear') -> Tensor:
    """Return the matrix that resizes along one axis.

    Args:
        source (int): Pixels before.
        target (int): Pixels after.
        kernel (str): 'bilinear' or 'bicubic', both with antialiasing.

    Returns:
        Tensor: ``(target, source)`` in fp64; its product with a column of pixels is the resized column.

    Raises:
        UserError: If the kernel is unknown.
    """
    if kernel not in KERNELS:
        raise UserError(f'unknown kernel {kernel!r}: choose one of {", ".join(KERNELS)}')
    # Each column of the identity is one bright pixel. Only the height is resized.
    pixels = torch.eye(source, dtype=torch.float64)[None, None]
    return F.interpolate(pixels, (target, source), mode=kernel, align_corners=False, antialias=True)[0, 0]


def resize_patch_embed(weight: Tensor, patch_size: tuple[int, int], kernel: str = 'bilinear') -> Tensor:
    r"""Resize the convolution of a patch embedding by the pseudo-inverse of resizing a patch.

    With :math:`B` the matrix that resizes a patch, the result is :math:`(B^\top)^+ w`. Its product with a resized patch
    is the least-squares fit to the product of :math:`w` with the original patch: exact when patches grow; when they
    shrink, exact for patches from which resizing removes no information (FlexiViT, `arXiv 2212.08013
    <https://arxiv.org/abs/2212.08013>`_, §3.4). Resizing is separable, and so is the pseudo-inverse.

    Args:
        weight (Tensor): ``(C, in_channels, height, width)``.
        patch_size (tuple[int, int]): Height and width of the result, in pixels.
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
