"""From an image of any size to the input of an exported network."""

from collections.abc import Callable

import cv2
import numpy as np

from .metadata import ModelCard, Size


def inside(image: np.ndarray, shape: Size) -> np.ndarray:
    """Resize ``(h, w, 3)`` to the largest size of its own proportions that is no larger than ``shape``."""
    return _scaled(image, min(shape[0] / image.shape[0], shape[1] / image.shape[1]), np.minimum, shape)


def centre(image: np.ndarray, shape: Size) -> np.ndarray:
    """Resize ``(h, w, 3)`` to the smallest size of its own proportions that covers ``shape``; cut the centre out."""
    image = _scaled(image, max(shape[0] / image.shape[0], shape[1] / image.shape[1]), np.maximum, shape)
    top, left = ((have - want) // 2 for have, want in zip(image.shape, shape, strict=False))
    return image[top : top + shape[0], left : left + shape[1]]


def _scaled(image: np.ndarray, factor: float, limit: Callable, shape: Size) -> np.ndarray:
    height, width = (
        max(1, int(limit(round(side * factor), bound))) for side, bound in zip(image.shape, shape, strict=False)
    )
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


#: How an image comes to a network's shape, by the name a :class:`ModelCard` carries.
FITS: dict[str, Callable[[np.ndarray, Size], np.ndarray]] = dict(inside=inside, centre=centre)


def prepare(image: np.ndarray, card: ModelCard) -> tuple[np.ndarray, Size]:
    """Make the network's input from an image.

    Args:
        image (np.ndarray): ``(h, w, 3)``, uint8, BGR as OpenCV reads it.
        card (ModelCard): The network's.

    Returns:
        tuple: ``(3, H, W)``, float32, and the height and width that the image takes of it, from the top left corner.
    """
    fitted = FITS[card.fit](image, card.shape)
    ordered = fitted[..., ::-1] if card.channel_order == 'rgb' else fitted
    values = (ordered - np.float32(card.mean)) / np.float32(card.std)
    height, width = fitted.shape[:2]
    whole = np.full((*card.shape, 3), card.pad_value, np.float32)
    whole[:height, :width] = values
    return np.ascontiguousarray(whole.transpose(2, 0, 1)), (height, width)
