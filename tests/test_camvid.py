"""CamVid in the layout of the SegNet tutorial, on images made here."""

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from mmseg.registry import DATASETS
from PIL import Image

import mmvittm
from mmvittm.apis.config import load_config

CONFIG = mmvittm.configs_dir() / '_base_/datasets/camvid.py'


@pytest.fixture(scope='module')
def camvid(tmp_path_factory):
    """Two images per split; labels 0 to 11 in columns of 40 pixels."""
    root = tmp_path_factory.mktemp('CamVid')
    labels = np.repeat(np.arange(12, dtype=np.uint8), 40)[None].repeat(360, 0)
    for split in ('train', 'val', 'test'):
        for folder, array in ((split, np.stack([labels] * 3, -1) * 20), (f'{split}annot', labels)):
            (root / folder).mkdir()
            for name in ('0001TP_006690', 'Seq05VD_f00000'):
                Image.fromarray(array).save(root / folder / f'{name}.png')
    return root


def build(camvid, loader):
    dataset = load_config(CONFIG)[f'{loader}_dataloader'].dataset
    with DefaultScope.overwrite_default_scope('mmseg'):
        return DATASETS.build(dict(dataset, data_root=str(camvid)))


@pytest.mark.parametrize('loader', ['train', 'val', 'test'])
def test_each_split_has_its_own_folder(camvid, loader):
    dataset = build(camvid, loader)
    assert len(dataset) == 2
    info = dataset.get_data_info(0)
    assert info['img_path'] == str(camvid / loader / '0001TP_006690.png')
    assert info['seg_map_path'] == str(camvid / f'{loader}annot' / '0001TP_006690.png')
    assert len(dataset.metainfo['classes']) == len({tuple(color) for color in dataset.metainfo['palette']}) == 11


def test_unlabelled_pixels_are_ignored(camvid):
    item = build(camvid, 'test')[0]
    labels = item['data_samples'].gt_sem_seg.data[0].numpy()
    np.testing.assert_array_equal(labels[0, ::40], [*range(11), 255])
    assert item['inputs'].shape == (3, 360, 480)


def test_training_crops_hold_valid_labels(camvid):
    dataset = build(camvid, 'train')
    labels = np.unique(np.concatenate([dataset[0]['data_samples'].gt_sem_seg.data.numpy().ravel() for _ in range(8)]))
    assert set(labels) <= {*range(11), 255}
