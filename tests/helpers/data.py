"""Small image data sets on disk."""

from pathlib import Path

import numpy as np
from PIL import Image


def save(path: Path, pixels: np.ndarray) -> None:
    """Write an image and its missing folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def write_segmentation_set(root: Path, shape: tuple[int, int], num_labels: int, suffix: str = '.png') -> Path:
    """Write two random images and label maps for each split, in the folders of ADE20K.

    As tile columns of Blue Marble, the numbers of the validation images are those that fold 2 holds out.
    """
    generator = np.random.default_rng(0)
    for split, numbers in (('training', (0, 1)), ('validation', (2, 8))):
        for index in numbers:
            save(root / 'images' / split / f'{index}{suffix}', generator.integers(0, 256, (*shape, 3)))
            save(root / 'annotations' / split / f'{index}.png', generator.integers(0, num_labels, shape))
    return root
