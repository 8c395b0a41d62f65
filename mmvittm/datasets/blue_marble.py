from mmseg.datasets import BaseSegDataset

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
        reduce_zero_label (bool): Must stay False: label 0 is water, a class. Defaults to False.
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

    def __init__(self, img_suffix='.png', seg_map_suffix='.png', reduce_zero_label=False, **kwargs):
        super().__init__(
            img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, reduce_zero_label=reduce_zero_label, **kwargs
        )
