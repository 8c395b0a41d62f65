"""Odd data sets by a table, and a short run of tests/fuzz.py."""

import re
from collections import Counter

import numpy as np
import pytest
from fuzz import FAULTS, REFUSED, base_config, forget, fuzz, write_data
from helpers.data import save
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from torch.utils.data import Dataset

from mmvittm.apis.data import check_data, check_distinct_names
from mmvittm.datasets import CheckedDataset
from mmvittm.errors import UserError

SENTENCES = {
    'label without a class': 'labels/0.png has label 9, outside 0 to 1',
    '16-bit label': 'labels/0.png has label 2048: labels must be whole numbers up to 255',
    'RGB label': 'labels/0.png has 3 channels: a label map has one',
    'RGBA label': 'labels/0.png has 4 channels: a label map has one',
    'label of another size': 'labels/0.png has 40×32 pixels and its image 40×40: make them agree',
    'cut label': 'label map .*labels/0.png cannot be read',
    'no label': '1 of 2 images in .*images have no annotation, the first is .*labels/0.png',
    'text as label': 'label map .*labels/0.png cannot be read',
    'floats as label': 'labels/0.png has label 0.5: labels must be whole numbers',
    '16-bit grey image': 'images/0.png has 16 bits per channel: convert it to 8',
    'cut image': 'image .*images/0.png cannot be read',
    'bytes as image': 'image .*images/0.png cannot be read',
    'EXIF turn': 'images/0.png is turned by its EXIF orientation 2, and its size does not tell',
    'PNG in capitals': 'images/0.PNG would be passed over, since its suffix is not .png: rename it',
    'broken link': 'images/b.png is a broken link, not an image',
    'folder as image': 'images/f.png is a folder, not an image',
    'FIFO as image': 'images/f.png is a special file, not an image',
    'loop of links': 'images/loop is a link to a folder around it: remove it',
    'link to itself': 'images/s.png is a broken link, not an image',
    'line of pixels': 'labels/0.png has 8 pixels and its image 1×8',
    'empty folder': 'images is empty',
    'no folder': 'data set folder not found: .*images',
}


@pytest.fixture
def odd_set(tmp_path):
    """Damage the first image or label map of the validation set, and load that set as a training would."""
    data = write_data(tmp_path)

    def load(name, **options):
        FAULTS[name][0](*(data / 'validation' / kind / '0.png' for kind in ('images', 'labels')), 7)
        cfg = Config(base_config(data))
        cfg.val_dataloader.dataset.update(options)
        check_data(cfg, 'val_dataloader')
        with DefaultScope.overwrite_default_scope('mmseg'):
            return list(CheckedDataset(cfg.val_dataloader.dataset))

    return load


@pytest.mark.parametrize(
    'dataset',
    [
        dict(type='mmpretrain.CIFAR10', data_root='{}/none'),  # downloads itself
        dict(type='mmseg.ADE20KDataset', data_root='{}/none', backend_args=dict(backend='http')),
    ],
)
def test_data_elsewhere_is_not_missing(tmp_path, dataset):
    dataset['data_root'] = dataset['data_root'].format(tmp_path)
    check_data(Config(dict(default_scope='mmseg', val_dataloader=dict(dataset=dataset))), 'val_dataloader')
    local = dict(type='mmseg.ADE20KDataset', data_root=str(tmp_path / 'none'), backend_args=None)
    for each in (local, dict(type='ConcatDataset', datasets=[local])):
        with pytest.raises(UserError, match='data set folder not found'):
            check_data(Config(dict(default_scope='mmseg', val_dataloader=dict(dataset=each))), 'val_dataloader')


def test_images_of_a_list(odd_set, tmp_path):
    """Others may lie beside them."""
    (tmp_path / 'list.txt').write_text('1')
    assert len(odd_set('PNG in capitals', ann_file=str(tmp_path / 'list.txt'))) == 1
    (tmp_path / 'list.txt').write_text('1\n2')
    with pytest.raises(UserError, match=r'1 of 2 images in .* have no files, the first is .*2\.png'):
        odd_set('hidden file', ann_file=str(tmp_path / 'list.txt'))


def test_suffixes_that_a_data_set_takes(tmp_path, capsys):
    """In capitals with mmpretrain; label maps beside their images with mmseg."""
    forget()
    for name in ('classes/a/0.JPEG', 'mixed/0.jpg', 'mixed/0.png'):
        save(tmp_path / name, np.zeros((8, 8)))
    classes = dict(type='mmpretrain.CustomDataset', data_root=str(tmp_path), data_prefix='classes')
    mixed = dict(
        type='BaseSegDataset', data_root=str(tmp_path), data_prefix=dict(img_path='mixed', seg_map_path='mixed')
    )
    cfg = Config(dict(default_scope='mmseg', classes=dict(dataset=classes), mixed=dict(dataset=mixed), none=None))
    check_data(cfg, 'classes', 'mixed', 'none')
    assert 'passed over' not in capsys.readouterr().out


@pytest.mark.parametrize('name', [name for name, (_, expected) in FAULTS.items() if expected == REFUSED])
def test_odd_data(odd_set, name):
    with pytest.raises(UserError, match=SENTENCES[name]):
        odd_set(name)


@pytest.mark.parametrize('name', ['hidden file', 'grey image', 'RGBA image', 'odd name'])
def test_odd_data_that_is_right(odd_set, name):
    assert len(odd_set(name)) == 2


def test_images_of_another_suffix_are_counted(odd_set, capsys):
    forget()  # so that the logger writes to the captured stream
    odd_set('another suffix')
    assert re.search(r'WARNING - 1 images in .*images, such as .*a\.jpg, are passed over', capsys.readouterr().out)


def test_number_of_classes_differs(odd_set, tmp_path):
    cfg = base_config(write_data(tmp_path))['val_dataloader']['dataset']
    with DefaultScope.overwrite_default_scope('mmseg'):
        assert len(CheckedDataset(cfg, num_classes=2)) == 2
        with pytest.raises(UserError, match=r'the model has 3 classes and the data set 2 \(dark, light\)'):
            CheckedDataset(cfg, num_classes=3)


def test_checks_are_in_nested_pipelines(tmp_path):
    cfg = base_config(write_data(tmp_path))['val_dataloader']['dataset']
    load, annotate, pack = cfg['pipeline']
    cfg['pipeline'] = [load, dict(type='TestTimeAug', transforms=[[annotate], [pack]])]
    with DefaultScope.overwrite_default_scope('mmseg'):
        assert len(list(CheckedDataset(dict(type='ConcatDataset', datasets=[cfg])))) == 2
        FAULTS['label without a class'][0](None, tmp_path / 'validation' / 'labels' / '1.png', 0)
        with pytest.raises(UserError, match='has label 2, outside 0 to 1'):
            list(CheckedDataset(dict(type='ConcatDataset', datasets=[cfg])))


class Sines(Dataset):
    """A user's data set, of PyTorch alone."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        raise ValueError('my own error')


def test_a_data_set_of_pytorch():
    cfg = dict(type=Sines, count=2)
    check_data(Config(dict(default_scope='mmseg', val_dataloader=dict(dataset=cfg))), 'val_dataloader')
    with pytest.raises(ValueError, match='my own error'):
        CheckedDataset(cfg)[0]


def test_names_of_predictions_are_distinct(tmp_path):
    data = write_data(tmp_path)
    for kind in ('images', 'labels'):
        (data / 'validation' / kind / '0.png').rename(data / 'training' / kind / '1.png')  # over the other
        (data / 'training' / kind).rename(data / 'validation' / kind / 'more')
    cfg = base_config(data)['val_dataloader']['dataset']
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = DATASETS.build(cfg)
    with pytest.raises(UserError, match=r'2 images share names, such as .*images/1\.png and .*more/1\.png'):
        check_distinct_names(dataset)


def test_fuzz():
    failures = []

    def report(case, result):
        if result.kind in ('traceback', 'silent'):
            failures.append(f'{result.kind} {case.name}\n{result.text}')

    counts = fuzz(15, 3, report)
    forget()
    assert not failures, '\n'.join(failures)
    assert counts == Counter(sentence=counts['sentence'], **{'pass': counts['pass']})
    assert counts['sentence'] >= 8
