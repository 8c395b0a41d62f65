from pathlib import Path
from typing import Any

from mmseg.datasets import BaseSegDataset

from ..errors import UserError
from ..registry import DATASETS


@DATASETS.register_module()
class BlueMarbleDataset(BaseSegDataset):
    """Climate of the Earth's surface on NASA's Blue Marble, as ``tools/dataset_converters/blue_marble.py`` writes it.

    Six classes: water, and land by the main group (A to E) of its Köppen-Geiger zone; label 255 is ignored.
    The palette is that of Okabe and Ito (https://jfly.uni-koeln.de/color/), made for colour-blind readers, with an
    off-white in place of its black for the polar land.

    Args:
        img_suffix (str): Suffix of the images. Defaults to '.png'.
        seg_map_suffix (str): Suffix of the label maps. Defaults to '.png'.
        fold (int, optional): Keep the tiles of one side of this fold, 0 to 5. Fold ``k`` holds out the tile columns
            ``k``, ``k + 6`` and ``k + 12``. Defaults to None, all tiles.
        held_out (bool): Keep the held-out tiles of ``fold`` instead of the training tiles. Defaults to False.
        **kwargs: As for :class:`mmseg.datasets.BaseSegDataset`.
    """

    METAINFO = dict(
        classes=('water', 'tropical', 'arid', 'temperate', 'cold', 'polar'),
        palette=[
            [0, 114, 178],  # blue
            [0, 158, 115],  # bluish green
            [230, 159, 0],  # orange
            [240, 228, 66],  # yellow
            [204, 121, 167],  # reddish purple
            [242, 242, 242],  # off-white
        ],
    )

    FOLDS = 6

    def __init__(
        self,
        img_suffix: str = '.png',
        seg_map_suffix: str = '.png',
        fold: int | None = None,
        held_out: bool = False,
        **kwargs: Any,
    ) -> None:
        if fold not in (None, *range(self.FOLDS)):
            raise UserError(f'BlueMarbleDataset has the folds 0 to {self.FOLDS - 1}, not {fold!r}')
        if held_out and fold is None:
            raise UserError('BlueMarbleDataset needs a fold to keep its held-out tiles: set fold, 0 to 5')
        self.fold = fold
        self.held_out = held_out
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)

    def load_data_list(self) -> list[dict]:
        """List the tiles of the chosen side of the fold.

        Raises:
            UserError: If there are none.
        """
        tiles = super().load_data_list()
        if self.fold is None:
            return tiles
        kept = [tile for tile in tiles if (self._column(tile) % self.FOLDS == self.fold) == self.held_out]
        if not kept:
            side = 'held-out' if self.held_out else 'training'
            raise UserError(f'{self.data_prefix["img_path"]} has no {side} tiles of fold {self.fold}: convert it again')
        return kept

    @staticmethod
    def _column(tile: dict) -> int:
        return int(Path(tile['img_path']).stem[-2:])  # r{row}_c{column:02d}.png
