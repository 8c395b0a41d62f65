"""Digit scenes: they depend on number and seed alone, and labels, masks and boxes agree."""

import json

import numpy as np
import pytest
import torch
from conftest import ROOT
from helpers.tools import call_tool, load_tool
from mmseg.registry import DATASETS
from PIL import Image

import mmvittm  # noqa: F401  (makes the scope known)
from mmvittm.apis.config import build_model, load_config
from mmvittm.datasets import digit_scenes
from mmvittm.datasets.digit_scenes import load_digits, make_scene
from mmvittm.deploy.images import sample_images
from mmvittm.errors import UserError


@pytest.fixture(scope='module')
def backgrounds(blue_marble):
    return sorted((blue_marble / 'images/training').iterdir())


@pytest.mark.parametrize('side', [256, 512])
def test_a_scene_depends_on_number_and_seed_alone(backgrounds, side):
    first, again = (make_scene(5, 0, side, backgrounds, False) for _ in range(2))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.masks, again.masks)
    assert first.image.shape == (side, side, 3)
    for other in (make_scene(6, 0, side, backgrounds, False), make_scene(5, 1, side, backgrounds, False)):
        assert not np.array_equal(first.image, other.image)


def test_masks_partition_the_labels(backgrounds):
    for number in range(20):
        scene = make_scene(number, 0, 256, backgrounds, False)
        assert scene.masks.any((1, 2)).all()
        assert scene.masks.sum(0).max() <= 1
        painted = sum(mask * (digit + 1) for mask, digit in zip(scene.masks, scene.digits, strict=True))
        np.testing.assert_array_equal(scene.labels, painted)


def test_plain_digits_are_light_and_of_their_sizes(backgrounds):
    for number in range(20):
        scene = make_scene(number, 0, 256, backgrounds, False, sizes=(64, 80), plain=True)
        assert (scene.image == scene.image[..., :1]).all()
        assert (scene.image[scene.labels > 0] >= 64).all()
        assert (scene.image == 0).all(2).mean() > 0.4
        extents = [np.ptp(np.argwhere(mask), 0).max() + 1 for mask in scene.masks]
        assert max(extents) <= 80 * 2**0.5


def test_held_out_digits_are_never_trained_on():
    training, held_out = (load_digits(side)[0].reshape(-1, 784) for side in (False, True))
    assert (len(training), len(held_out)) == (4000, 1000)
    assert not {image.tobytes() for image in training} & {image.tobytes() for image in held_out}


def test_dataset_makes_its_scenes(blue_marble):
    pipeline = [dict(type='mmvittm.MakeDigitScene'), dict(type='mmseg.PackSegInputs')]
    options = dict(data_root=str(blue_marble), num_scenes=4, side=256, pipeline=pipeline)
    training, held_out = (
        DATASETS.build(dict(type='mmvittm.DigitScenesDataset', held_out=side, **options)) for side in (False, True)
    )
    assert len(training) == 4
    columns = [
        {path[-6:-4] for path in dataset.get_data_info(0)['scene']['backgrounds']} for dataset in (training, held_out)
    ]
    assert columns[1] == {'02', '08', '14'}
    assert not columns[0] & columns[1]
    item = training[3]
    scene = make_scene(3, **training.get_data_info(3)['scene'])
    np.testing.assert_array_equal(item['inputs'].permute(1, 2, 0), scene.image[..., ::-1])  # BGR
    np.testing.assert_array_equal(item['data_samples'].gt_sem_seg.data[0], scene.labels)


def test_predictions_are_saved_and_not_drawn(blue_marble, tmp_path, run_tool):
    config = ROOT / 'configs/vittm/vittm-t_16-32_upernet_1xb8-4k_digit-scenes-256x256.py'
    cfg = load_config(config, dict(default_scope='mmseg'))
    torch.save(dict(state_dict=build_model(cfg).state_dict()), tmp_path / 'weights.pth')
    data = f'test_dataloader.dataset.data_root={blue_marble}', 'test_dataloader.dataset.num_scenes=2'
    options = ('--work-dir', tmp_path / 'work', '--cfg-options', *data)
    done = run_tool('test.py', config, tmp_path / 'weights.pth', '--out', tmp_path / 'out', *options)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['000000.png', '000001.png', 'metrics.json']
    done = run_tool('test.py', config, tmp_path / 'weights.pth', '--show-dir', tmp_path / 'show', *options)
    assert done.stderr.endswith('error: the images of a DigitScenesDataset are no files: leave out --show-dir\n')


def test_tools_on_images_that_are_no_files(blue_marble, tmp_path, monkeypatch):
    config = ROOT / 'configs/vittm/vittm-t_16-32_upernet_1xb8-4k_digit-scenes-256x256.py'
    cfg = load_config(config, {'test_dataloader.dataset.data_root': str(blue_marble)})
    with pytest.raises(UserError, match='the images of a DigitScenesDataset are no files'):
        load_tool('prediction_grid.py').test_set(cfg)
    assert load_tool('visualize_memory.py').read_truth(cfg, tmp_path / 'a.png', None, 11) is None
    assert len(list(sample_images(cfg))) == 4  # matplotlib's photograph
    with pytest.raises(UserError, match='holds no Blue Marble data set: make it with'):
        call_tool(monkeypatch, 'dataset_converters/digit_scenes.py', tmp_path, '--backgrounds', tmp_path)


def test_an_unreadable_background(backgrounds, tmp_path):
    path = tmp_path / 'cut.png'
    path.write_bytes(backgrounds[0].read_bytes()[:2000])
    with pytest.raises(UserError, match=r'background .*cut.png cannot be read \(.*truncated'):
        make_scene(0, 0, 256, [path], False)


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (dict(side=64), 'a side of at least 192 pixels, twice the largest digit, not 64'),
        (dict(sizes=(64, 200)), 'a side of at least 400 pixels, twice the largest digit, not 256'),
        (dict(sizes=(96, 24)), r'go from small to large, unlike \(96, 24\)'),
        (dict(sizes=(0, 24)), r'go from small to large, unlike \(0, 24\)'),
    ],
)
def test_sizes_that_cannot_be(blue_marble, options, sentence):
    with pytest.raises(UserError, match=sentence):
        DATASETS.build(dict(type='mmvittm.DigitScenesDataset', data_root=str(blue_marble), **options))


def test_folder_and_coco(run_tool, blue_marble, tmp_path):
    out = tmp_path / 'scenes'
    done = run_tool('dataset_converters/digit_scenes.py', out, '--backgrounds', blue_marble, '--scenes', 3)
    assert done.returncode == 0, done.stderr
    coco = json.loads((out / 'instances.json').read_text())
    assert len(coco['images']) == len(list((out / 'images').iterdir())) == 3
    for entry in coco['annotations']:
        labels = np.array(Image.open(out / 'annotations' / f'{entry["image_id"]:06d}.png'))
        runs = entry['segmentation']
        mask = np.repeat(np.arange(len(runs['counts'])) % 2, runs['counts']).reshape(runs['size'], order='F')
        assert mask.sum() == entry['area'] and (labels[mask == 1] == entry['category_id']).all()
        left, top, width, height = entry['bbox']
        inside = labels[top : top + height, left : left + width] == entry['category_id']
        assert inside.sum() >= entry['area'] > 0
        assert inside.any(0)[[0, -1]].all()
        assert inside.any(1)[[0, -1]].all()


def test_grid_of_plain_scenes(blue_marble, tmp_path, monkeypatch):
    path = tmp_path / 'scenes.png'
    options = ['--backgrounds', blue_marble, '--plain', '--sizes', 64, 112]
    call_tool(monkeypatch, 'dataset_converters/digit_scenes.py', '--grid', path, *options)
    image = np.array(Image.open(path))
    assert image.shape == (6 * 256, 4 * 256, 3)
    scenes, labels = image[:256], image[256:512]
    assert (scenes == scenes[..., :1]).all() and scenes.max() > 127
    assert (labels != labels[..., :1]).any()


@pytest.mark.parametrize(
    ('name', 'arguments', 'sentence'),
    [
        ('instances.json', [], 'exists: pass --overwrite to replace it'),
        ('thesis.tex', ['--overwrite'], 'holds other files than a data set of digit scenes'),
        ('images/training/r0_c00.png', ['--overwrite'], 'holds other files than a data set of digit scenes'),
    ],
)
def test_a_folder_is_not_replaced_by_mistake(blue_marble, tmp_path, monkeypatch, name, arguments, sentence):
    mine = tmp_path / 'scenes' / name
    mine.parent.mkdir(parents=True)
    mine.touch()
    arguments = [tmp_path / 'scenes', '--backgrounds', blue_marble, '--side', 192, *arguments]
    with pytest.raises(UserError, match=sentence):
        call_tool(monkeypatch, 'dataset_converters/digit_scenes.py', *arguments)
    assert mine.exists()


def test_faint_strokes_have_no_label(tmp_path, monkeypatch):
    Image.new('RGB', (256, 256)).save(tmp_path / 'a.png')
    faint = np.full((10, 28, 28), 100, np.uint8), np.arange(10)
    monkeypatch.setattr(digit_scenes, 'load_digits', lambda held_out: faint)
    scene = make_scene(0, 0, 256, [tmp_path / 'a.png'], held_out=False)
    assert scene.image.any() and not scene.labels.any()
