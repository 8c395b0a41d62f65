"""Segmentation of scenes in parts: the numbers of the whole, files read and written in windows, and bad input."""

import hashlib
import re
from concurrent.futures import ProcessPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.deployment import make_models, photograph
from helpers.tiny import ARCH, one_thread, randomize  # noqa: F401  (a fixture)
from helpers.tools import load_tool
from mmengine.config import Config
from mmseg.structures import SegDataSample
from PIL import Image

from mmvittm.apis.config import build_model
from mmvittm.benchmark.profiling import peak_memory
from mmvittm.errors import UserError
from mmvittm.scenes import load_shipped_model, predict_scene
from mmvittm.scenes.locality import measure_locality
from mmvittm.scenes.models import load_segmentor
from mmvittm.scenes.rasters import CACHE, Window, open_raster, write_labels
from mmvittm.scenes.whole import DEFAULT_CHUNK, Scene, SceneModel, bilinear
from mmvittm.weights.saving import serialize

rasterio = pytest.importorskip('rasterio')
pytestmark = pytest.mark.filterwarnings(
    'ignore::rasterio.errors.NotGeoreferencedWarning', 'ignore:Use `@` matmul:PendingDeprecationWarning'
)

PALETTE = [(0, 0, 255), (0, 128, 0), (255, 255, 255)]
SHUFFLE = dict(type='mmvittm.PixelShuffleHead', channels=4, token_channels=8, upscale=2)
FPN_NECK = dict(type='Feature2Pyramid', embed_dim=16, rescales=[4, 2, 1, 0.5], norm_cfg=dict(type='BN'))
FPN = dict(type='FPNHead', feature_strides=[1, 2, 4, 8], channels=8, norm_cfg=dict(type='BN'))


def config(head=SHUFFLE, outputs=2, stream='memory', divisor=4, neck=None, **backbone):
    channels = 32 if stream == 'concat' else 16
    decode_head = dict(
        in_channels=[channels] * outputs, in_index=list(range(outputs)), num_classes=3, dropout_ratio=0.0,
        align_corners=False, loss_decode=dict(type='CrossEntropyLoss'),
    )  # fmt: skip
    backbone = dict(
        type='mmvittm.ViTTM', arch=ARCH | dict(num_layers=4), img_size=(32, 48),
        memory_embed=dict(type='PatchTokens', patch_size=4), process_embed=dict(type='PooledTokens', grid=(3, 5)),
        rw_head=dict(type='LinearAttention', latent_ratio=2), out_indices=tuple(range(4 - outputs, 4)),
        out_stream=stream,
    ) | backbone  # fmt: skip
    preprocessor = dict(
        type='SegDataPreProcessor', mean=[120.0, 115.0, 100.0], std=[58.0, 57.0, 56.0], bgr_to_rgb=True,
        test_cfg=dict(size_divisor=divisor) if divisor else None,
    )  # fmt: skip
    model = dict(
        type='EncoderDecoder', data_preprocessor=preprocessor, backbone=backbone, decode_head=decode_head | head,
        test_cfg=dict(mode='whole'),
    )  # fmt: skip
    return Config(dict(default_scope='mmseg', model=model | (dict(neck=neck) if neck else {})))


def model(**options):
    return randomize(build_model(config(**options))).eval()


class ArrayRaster:
    """An image ``(H, W, 3)`` in memory in place of a file."""

    def __init__(self, image):
        self.image, self.size = image.transpose(2, 0, 1), image.shape[:2]

    def read(self, window):
        return self.image[(slice(None), *window.slices)].copy()


def whole_logits(model, image):
    """Logits and labels ``(K, H, W)``, ``(H, W)`` of mmseg's own prediction."""
    inputs = torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy())  # BGR, as LoadImageFromFile reads it
    meta = dict(ori_shape=image.shape[:2], img_shape=image.shape[:2])
    data = dict(inputs=[inputs], data_samples=[SegDataSample(metainfo=meta)])
    with torch.no_grad():
        result = model.test_step(data)[0]
    return result.seg_logits.data, result.pred_sem_seg.data[0].numpy()


def streamed_logits(model, image, chunk):
    with torch.inference_mode():
        scene = Scene(SceneModel(model), ArrayRaster(image), chunk)
        logits = torch.full((3, *image.shape[:2]), torch.nan)
        windows = scene.windows()
        for window in windows:
            logits[(slice(None), *window.slices)] = scene.logits(window)[0]
    return logits, len(windows)


MODELS = {
    'pixel shuffle': dict(),
    'one map': dict(outputs=1),
    'last block unused': dict(out_indices=(0, 2)),
    'concat': dict(stream='concat'),
    'learned process tokens': dict(process_embed=dict(type='LearnedTokens', grid=4)),
    'square cells': dict(process_embed=dict(type='PooledCells', rows=4)),
    'finer head': dict(head=SHUFFLE | dict(num_blocks=1, fine_upscale=2)),
    'memory MLP': dict(memory_block=dict(type='MemoryMLP', mlp_ratio=2)),
    'cross attention': dict(rw_head=dict(type='CrossAttention')),
    'feature pyramid': dict(outputs=4, head=FPN, neck=FPN_NECK),
    'regions': dict(rw_region=(4, 2), process_embed=dict(type='PooledTokens', grid=4)),
    'attention that fades': dict(
        alibi_slopes=(1.0, 0.5), rw_region=(4, 2), process_embed=dict(type='PooledTokens', grid=4)
    ),
    'attention by region': dict(
        global_attention=False,
        alibi_slopes=(1.0, 0.5),
        rw_region=(4, 2),
        process_embed=dict(type='PooledTokens', grid=4),
    ),
    'concat by region': dict(stream='concat', rw_region=(4, 2), process_embed=dict(type='PooledTokens', grid=4)),
}
SIZES = {'the trained size': (32, 48), 'a larger size': (128, 160), 'a size of broken patches': (101, 75)}
# not on broken patches: the pyramid resizes maps of odd sizes by uneven factors, and regions do not divide them
CASES = {
    f'{name} at {size}': (MODELS[name], SIZES[size])
    for name in MODELS
    for size in SIZES
    if size != 'a size of broken patches'
    or name not in ('feature pyramid', 'regions', 'attention that fades', 'attention by region', 'concat by region')
}


@pytest.mark.parametrize(('options', 'size'), CASES.values(), ids=CASES)
def test_windows_equal_the_whole(options, size):
    net, image = model(**options), photograph(*size)
    expected, _ = whole_logits(net, image)
    logits, windows = streamed_logits(net, image, chunk=400)
    assert windows > 1 or size == (32, 48)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize('cells', [dict(type='PooledTokens', grid=4), dict(type='PooledCells', rows=4)])
@pytest.mark.parametrize('size', [(101, 75), (40, 90), (4, 4)])
def test_regions_name_a_size_that_works(cells, size):
    scene_model = SceneModel(model(rw_region=(4, 2), process_embed=cells))
    with pytest.raises(UserError, match='choose another rw_region, or images of another size') as raised:
        Scene(scene_model, ArrayRaster(photograph(*size)))
    named = re.search(r', such as (\d+)×(\d+) pixels$', str(raised.value))
    assert (named is None) == (size == (4, 4))  # nothing is near a single patch
    if named:
        Scene(scene_model, ArrayRaster(photograph(*map(int, named.groups()))))


@pytest.mark.parametrize('divisor', [None, 3, 32])
def test_other_paddings_than_whole_patches(divisor):
    net, image = model(divisor=divisor), photograph(101, 70)
    net.data_preprocessor.pad_val = 2.0  # the backbone pads to whole patches with zeros
    expected, _ = whole_logits(net, image)
    logits, _ = streamed_logits(net, image, chunk=150)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('chunk', [50, 20])  # two rows of tokens, and less than one
def test_process_tokens_are_those_of_the_backbone(chunk):
    net, image = model(stream='concat', outputs=4), photograph(64, 96)
    with torch.inference_mode():
        scene = Scene(SceneModel(net), ArrayRaster(image), chunk)
        inputs = torch.from_numpy(image.transpose(2, 0, 1).copy())
        pixels = (inputs - net.data_preprocessor.mean) / net.data_preprocessor.std
        maps = scene.maps(range(16), range(24))
        for ours, theirs in zip(maps, net.backbone(pixels[None]), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_halo_is_needed_and_enough():
    """One token less of it changes the logits."""
    net, image = model(), photograph(128, 160)
    expected, _ = whole_logits(net, image)
    with torch.inference_mode():
        scene_model = SceneModel(net)
        scene = Scene(scene_model, ArrayRaster(image), chunk=400)
        for halo, equal in ((scene_model.locality.halo, True), (scene_model.locality.halo - 1, False)):
            scene_model.locality = scene_model.locality._replace(halo=halo)
            window = Window(41, 41, 40, 40)  # begins at the first row of logits of a token
            assert torch.allclose(scene.logits(window)[0], expected[(slice(None), *window.slices)], atol=1e-4) == equal


@pytest.mark.parametrize(
    ('layers', 'expected'),
    [
        ([torch.nn.Conv2d(2, 3, 1)], (1, 1, 0)),
        ([torch.nn.Conv2d(2, 3, 5, padding=2), torch.nn.Conv2d(3, 3, 3, padding=1)], (1, 1, 3)),
        ([torch.nn.Conv2d(2, 3, 3, padding=1, dilation=1), torch.nn.Upsample(scale_factor=2)], (2, 1, 1)),
        ([torch.nn.Conv2d(2, 12, 1), torch.nn.PixelShuffle(2), torch.nn.Conv2d(3, 3, 3, padding=1)], (2, 1, 1)),
        ([torch.nn.MaxPool2d(2), torch.nn.Upsample(scale_factor=2)], (1, 2, 0)),
        ([torch.nn.MaxPool2d(4), torch.nn.Conv2d(2, 2, 3, padding=1), torch.nn.Upsample(scale_factor=4)], (1, 4, 4)),
        ([torch.nn.MaxPool2d(2), torch.nn.Upsample(scale_factor=2), torch.nn.Conv2d(2, 2, 3, padding=1)], (1, 2, 2)),
        ([torch.nn.MaxPool2d(8), torch.nn.Upsample(scale_factor=8)], (1, 8, 0)),
        ([torch.nn.MaxPool2d(16), torch.nn.Upsample(scale_factor=16)], (1, 16, 0)),
    ],
    ids=[
        'pointwise',
        'two convolutions',
        'upsampled',
        'pixel shuffle',
        'pooled',
        'pooled convolution',
        'less than align',
        'pooled by eight',
        'pooled by sixteen',
    ],
)
def test_locality(layers, expected):
    torch.manual_seed(0)
    net = torch.nn.Sequential(*layers)
    locality = measure_locality([net], lambda modules, maps: modules[0](maps[0]), [2])
    assert (locality.upscale, locality.align, locality.halo) == expected


@pytest.mark.parametrize('layer', [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Softmax(dim=3)])
def test_a_global_head_is_refused(layer):
    def decode(modules, maps):
        return maps[0] + modules[0](maps[0])

    with pytest.raises(UserError, match='reads the whole scene for every pixel'):
        measure_locality([layer], decode, [2])


@pytest.mark.parametrize('size', [(7, 20), (20, 7), (33, 33)])
def test_interpolation_in_parts(size):
    x = torch.randn(1, 2, *size, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(x, (33, 41), mode='bilinear', align_corners=False)
    columns = bilinear(range(41), size[1] / 41, size[1]).float()
    parts = []
    for part in (range(15), range(15, 33)):
        scale = size[0] / 33
        low = max(0, int((part.start + 0.5) * scale - 0.5))
        rows = bilinear(part, scale, size[0] - low, low).float()
        parts.append(rows @ x[:, :, low:] @ columns.T)
    torch.testing.assert_close(torch.cat(parts, 2), expected)


def measured_peaks(limit):
    """Return the chunk for a limit of memory, and the peaks in chunks and as a whole."""
    net, image = model(), photograph(768, 768)
    scene_model = SceneModel(net)
    chunk = scene_model.chunk_within(limit, image.shape[:2], resident=0)

    def windows():
        with torch.inference_mode():
            scene = Scene(scene_model, ArrayRaster(image), chunk)
            for window in scene.windows():
                scene.logits(window)

    windows()  # libraries allocate once
    return chunk, peak_memory(windows), peak_memory(lambda: whole_logits(net, image))


def test_memory_stays_within_its_limit(fresh_processes):
    """In a process of its own: what the allocator keeps of earlier tests would count."""
    limit = 16e6
    with ProcessPoolExecutor(1, mp_context=fresh_processes) as pool:
        chunk, taken, whole = pool.submit(measured_peaks, limit).result()
    if taken is None:
        pytest.skip('the system does not tell the peak')
    assert chunk < 192**2 / 4
    assert taken < limit
    assert whole > 3 * limit


# Files


@pytest.fixture
def scene_tif(tmp_path):
    """A georeferenced TIFF of 120×200 pixels."""
    path, image = tmp_path / 'scene.tif', photograph(120, 200)
    transform = rasterio.transform.from_origin(7.0, 47.5, 0.001, 0.001)
    profile = dict(driver='GTiff', height=120, width=200, count=3, dtype='uint8', tiled=True, blockxsize=64,
                   blockysize=64, crs='EPSG:4326', transform=transform)  # fmt: skip
    with rasterio.open(path, 'w', **profile) as file:
        file.write(image.transpose(2, 0, 1))
    return path


LABEL_TIFF = dict(driver='GTiff', tiled=True, blockxsize=256, blockysize=256, compress='deflate', dtype='uint8')


@pytest.mark.parametrize(
    ('suffix', 'profile'),
    [('.tif', LABEL_TIFF), ('.TIFF', LABEL_TIFF), ('.png', dict(driver='PNG')), ('.PNG', dict(driver='PNG'))],
)
@pytest.mark.parametrize('memory', [None, 269.7e6])
def test_files_hold_the_labels_of_the_whole(scene_tif, tmp_path, suffix, profile, memory):
    net, out = model(), tmp_path / f'labels{suffix}'
    predict_scene(net, scene_tif, out, PALETTE, memory=memory)
    with rasterio.open(out) as file:
        labels, colours = file.read(1), file.colormap(1)
        assert profile.items() <= file.profile.items()
        if suffix.lower() != '.png':
            with rasterio.open(scene_tif) as scene:
                assert (file.crs, file.transform) == (scene.crs, scene.transform)
    _, expected = whole_logits(net, photograph(120, 200))
    assert len(np.unique(expected)) == 3
    assert (labels == expected).mean() > 0.9999
    assert [colours[index][:3] for index in range(3)] == PALETTE
    assert sorted(tmp_path.iterdir()) == sorted([scene_tif, out])


def test_png_and_tiff_read_the_same(scene_tif, tmp_path):
    Image.fromarray(photograph(120, 200)).save(tmp_path / 'scene.png')
    with open_raster(scene_tif) as tif, open_raster(tmp_path / 'scene.png') as png:
        assert tif.size == png.size == (120, 200)
        window = Window(10, 20, 33, 44)
        np.testing.assert_array_equal(tif.read(window), png.read(window))
        np.testing.assert_array_equal(tif.read(window), photograph(120, 200)[10:43, 20:64].transpose(2, 0, 1))


@pytest.mark.parametrize('shape', [(120, 200), (37, 64), (24, 30)])
def test_slide_equals_mmseg(tmp_path, shape):
    net, image = model(), photograph(*shape)
    net.test_cfg = Config(dict(mode='slide', crop_size=(32, 48), stride=(20, 30)))
    _, expected = whole_logits(net, image)
    Image.fromarray(image).save(tmp_path / 'scene.png')
    predict_scene(net, tmp_path / 'scene.png', tmp_path / 'labels.png', PALETTE, mode='slide')
    assert (np.asarray(Image.open(tmp_path / 'labels.png')) == expected).mean() > 0.9999


def test_slide_without_crop_size(tmp_path):
    net, image = model(), photograph(120, 200)
    Image.fromarray(image).save(tmp_path / 'scene.png')
    net.data_preprocessor.size = (32, 48)  # of the training
    predict_scene(net, tmp_path / 'scene.png', tmp_path / 'labels.png', PALETTE, mode='slide')
    net.test_cfg = Config(dict(mode='slide', crop_size=(32, 48), stride=(21, 32)))
    _, expected = whole_logits(net, image)
    assert (np.asarray(Image.open(tmp_path / 'labels.png')) == expected).mean() > 0.9999


def test_preview_is_painted(tmp_path, monkeypatch):
    monkeypatch.setattr('mmvittm.scenes.predict.PREVIEW_SIDE', 50)
    net, image = model(), photograph(120, 160)
    Image.fromarray(image).save(tmp_path / 'scene.png')
    paths = tmp_path / 'scene.png', tmp_path / 'labels.png'
    predict_scene(net, *paths, PALETTE, memory=270e6, preview=tmp_path / 'preview.png')
    labels = np.asarray(Image.open(tmp_path / 'labels.png'))
    preview = np.asarray(Image.open(tmp_path / 'preview.png')).astype(int)
    expected = (np.array(PALETTE)[labels[2::4, 2::4]] + blocks(image, 4)) / 2
    assert preview.shape == (30, 40, 3)
    assert np.abs(preview - expected).max() <= 1


def test_preview_of_a_strip(tmp_path, monkeypatch):
    """Narrower than what a pixel of the preview covers."""
    monkeypatch.setattr('mmvittm.scenes.predict.PREVIEW_SIDE', 50)
    path = png(tmp_path / 'scene.png', photograph(4, 300))
    predict_scene(model(), path, tmp_path / 'labels.png', PALETTE, preview=tmp_path / 'preview.png')
    assert Image.open(tmp_path / 'preview.png').size == (50, 1)


def blocks(image, side):
    """Means of square blocks of pixels."""
    return image.reshape(image.shape[0] // side, side, image.shape[1] // side, side, 3).mean((1, 3))


@pytest.mark.parametrize(('memory', 'reduce'), [(None, 2), (270e6, 2), (None, 7)])  # in several windows; with a rest
def test_reduced_image(scene_tif, tmp_path, memory, reduce):
    net = model()
    predict_scene(net, scene_tif, tmp_path / 'labels.tif', PALETTE, memory=memory, reduce=reduce)
    image = photograph(120, 200)[: 120 // reduce * reduce, : 200 // reduce * reduce]
    reduced = (blocks(image, reduce) + 0.5).astype(np.uint8)  # rounds half up, as GDAL does
    _, expected = whole_logits(net, reduced)
    with rasterio.open(tmp_path / 'labels.tif') as file, rasterio.open(scene_tif) as scene:
        assert (file.read(1) == expected).mean() > 0.999
        assert (file.bounds.left, file.bounds.top) == (scene.bounds.left, scene.bounds.top)
        assert file.res == (scene.res[0] * reduce, scene.res[1] * reduce)


@pytest.mark.parametrize(
    ('reduce', 'problem'),
    [(150, 'has no 150×150 pixels to reduce to one'), (0, 'reduce must be a whole number above 0, not 0')],
)
def test_reduced_to_nothing(scene_tif, tmp_path, reduce, problem):
    with pytest.raises(UserError, match=problem):
        predict_scene(model(), scene_tif, tmp_path / 'labels.tif', PALETTE, reduce=reduce)


# Failures


def write_tif(path, bands=3, dtype='uint8', size=64):
    profile = dict(driver='GTiff', height=size, width=size, count=bands, dtype=dtype, compress='deflate')
    with rasterio.open(path, 'w', **profile) as file:
        file.write(np.random.default_rng(0).integers(0, 255, (bands, size, size)).astype(dtype))
    return path


def truncated(path):
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def zeroed(path):
    data = bytearray(path.read_bytes())
    data[-300:-2] = bytes(298)
    path.write_bytes(data)
    return path


def png(path, array):
    Image.fromarray(array).save(path)
    return path


def turned(path, array):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(array).save(path, exif=exif)
    return path


BAD_IMAGES = {
    'missing': (lambda tmp: tmp / 'none.tif', 'image not found'),
    'another type': (lambda tmp: tmp / 'scene.gif', 'none of the types'),
    'four bands': (lambda tmp: write_tif(tmp / 'a.tif', bands=4), 'has 4 bands of uint8, and 3 of uint8 are needed'),
    'one band': (lambda tmp: write_tif(tmp / 'a.tif', bands=1), 'has 1 bands of uint8'),
    '16 bits': (lambda tmp: write_tif(tmp / 'a.tif', dtype='uint16'), 'has 3 bands of uint16'),
    '16-bit PNG': (lambda tmp: png(tmp / 'a.png', np.zeros((64, 64), np.uint16)), 'has 1 bands of uint16'),
    'truncated TIFF': (lambda tmp: truncated(write_tif(tmp / 'a.tif')), 'is damaged, or not an image'),
    'truncated PNG': (lambda tmp: truncated(png(tmp / 'a.png', photograph(64, 64))), 'is damaged, or not an image'),
    'zeros in a JPEG': (lambda tmp: zeroed(png(tmp / 'a.jpg', photograph(64, 64))), 'is damaged, or not an image'),
    'turned by EXIF': (lambda tmp: turned(tmp / 'a.jpg', photograph(64, 96)), 'is turned by its EXIF orientation'),
    'smaller than a patch': (lambda tmp: png(tmp / 'a.png', photograph(3, 64)), 'smaller than a patch of 4×4'),
    'narrower than a patch': (lambda tmp: png(tmp / 'a.png', photograph(64, 3)), 'smaller than a patch of 4×4'),
}


@pytest.mark.parametrize(('make', 'problem'), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_bad_image(tmp_path, make, problem):
    (tmp_path / 'scene.gif').write_bytes(b'GIF89a')
    path, out = make(tmp_path), tmp_path / 'out'
    with pytest.raises(UserError, match=problem) as raised:
        predict_scene(model(), path, out / 'labels.tif', PALETTE)
    assert '\n' not in str(raised.value)
    assert not out.exists() or not list(out.iterdir())


def test_a_png_named_tif(tmp_path):
    path = png(tmp_path / 'a.png', photograph(9, 9)).rename(tmp_path / 'a.TIF')
    predict_scene(model(), path, tmp_path / 'labels.png', PALETTE)
    _, expected = whole_logits(model(), photograph(9, 9))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / 'labels.png')), expected)


BAD_MODELS = {
    'process patches': (dict(process_embed=dict(type='PatchTokens', patch_size=8)), 'must be PooledTokens'),
    'fixed tokens': (dict(rw_head=dict(type='TokenLearner')), 'TokenLearner may mix memory tokens'),
    'fixed fusion': (dict(fusion=dict(type='AddEraseFusion')), 'AddEraseFusion may mix memory tokens'),
    'regions of some rows': (dict(rw_region=(2, 4)), 'rw_region must have all rows of the process grid'),
    'mixed memory': (dict(memory_block=dict(type='MemoryConvNeXt')), 'MemoryConvNeXt may mix memory tokens'),
    'process maps': (dict(stream='process'), 'out_stream must be memory or concat'),
    'align_corners': (dict(head=SHUFFLE | dict(align_corners=True)), 'must have align_corners=False'),
    'pyramid pooling': (
        dict(head=dict(type='PSPHead', in_channels=16, in_index=0, channels=4, norm_cfg=dict(type='BN'))),
        'reads the whole scene for every pixel',
    ),
}


def test_windows_stay_within_the_chunk():
    with torch.inference_mode():
        scene = Scene(SceneModel(model()), ArrayRaster(photograph(128, 160)), chunk=400)
        sizes, maps = [], scene.maps
        scene.maps = lambda rows, columns: sizes.append(len(rows) * len(columns)) or maps(rows, columns)
        for window in scene.windows():
            scene.logits(window)
    assert max(sizes) <= 400


def test_what_is_held_all_the_time_leaves_less_for_a_chunk():
    scene_model = SceneModel(model())
    chunk = scene_model.chunk_within(2e7, (768, 768), resident=0)
    assert scene_model.chunk_within(2e7 + 1e9, (768, 768), resident=10**9) == chunk < DEFAULT_CHUNK
    assert scene_model.state_bytes((101, 75)) == 4 * 26 * 19 * 16, 'bytes of a float, rows, columns, channels'
    more = scene_model.state_bytes((7680, 768)) - scene_model.state_bytes((768, 768))
    assert scene_model.chunk_within(2e7 + more, (7680, 768), resident=0) == chunk
    assert scene_model.chunk_within(1e12, (768, 768), resident=0) == DEFAULT_CHUNK


def test_head_that_does_not_upscale():
    head = dict(type='FCNHead', in_channels=16, in_index=0, channels=4, num_convs=2, norm_cfg=dict(type='BN'))
    net, image = model(outputs=1, head=head), photograph(128, 160)
    expected, _ = whole_logits(net, image)
    logits, windows = streamed_logits(net, image, 400)
    assert windows > 1
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_labels_that_the_disk_lost(tmp_path):
    raster = SimpleNamespace(size=(64, 64), georeference={})
    with (
        pytest.raises(UserError, match='it holds other labels than were written'),
        write_labels(tmp_path / 'labels.tif', raster, [(0, 0, 0)] * 256) as writer,
    ):
        writer.write(np.zeros((64, 64), np.uint8), Window(0, 0, 64, 64))
        writer.counts = np.roll(writer.counts, 1)
    assert not list(tmp_path.iterdir())


def test_classes_of_the_checkpoint(files):
    config, checkpoint = files
    names = dict(classes=('a', 'b', 'c'), palette=[[1, 2, 3]] * 3)
    torch.save(torch.load(checkpoint) | dict(meta=dict(dataset_meta=names)), checkpoint)
    loaded = load_segmentor(config, checkpoint).dataset_meta
    assert loaded == dict(classes=('a', 'b', 'c'), palette=((1, 2, 3),) * 3)


@pytest.mark.parametrize(('options', 'problem'), BAD_MODELS.values(), ids=BAD_MODELS)
def test_bad_model(options, problem):
    with pytest.raises(UserError, match=problem):
        SceneModel(model(**options))


@pytest.mark.parametrize(
    ('channels', 'mode', 'problem'),
    [
        (1, 'whole', 'one logit for two classes is not supported'),
        (257, 'whole', 'cannot hold 257 classes'),
        (256, 'whole', 'image not found: a.png'),
        (3, 'tiles', "unknown mode 'tiles'"),
    ],
)
def test_bad_channels_and_modes(channels, mode, problem):
    with pytest.raises(UserError, match=problem):
        predict_scene(SimpleNamespace(out_channels=channels), 'a.png', 'b.png', [(0, 0, 0)] * channels, mode=mode)


def test_a_palette_has_a_colour_for_each_class():
    with pytest.raises(UserError, match='palette has 2 colours for 3 classes'):
        predict_scene(SimpleNamespace(out_channels=3), 'a.png', 'b.png', [(0, 0, 0)] * 2)
    with pytest.raises(UserError, match='palette has 0 colours for 3 classes'):
        predict_scene(SimpleNamespace(out_channels=3), 'a.png', 'b.png')


def test_crops_without_gaps(tmp_path):
    net, path = model(), png(tmp_path / 'a.png', photograph(64, 64))
    net.test_cfg = Config(dict(mode='slide', crop_size=(32, 32), stride=(32, 48)))
    with pytest.raises(UserError, match=r'stride=\(32, 48\) leaves gaps between crops of \(32, 32\)'):
        predict_scene(net, path, tmp_path / 'labels.png', PALETTE, mode='slide')


def test_paths_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    png(tmp_path / 'a.png', photograph(64, 64))
    predict_scene(model(), '~/a.png', '~/labels.png', PALETTE, preview='~/preview.JPG')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.png', 'labels.png', 'preview.JPG']


def test_another_backbone_can_slide_only(tmp_path):
    net = model()
    net.backbone.__class__ = type('Other', (torch.nn.Module,), dict(forward=net.backbone.__class__.forward))
    with pytest.raises(UserError, match='a Other cannot see a scene in one pass'):
        SceneModel(net)


def test_too_little_memory(tmp_path):
    path = png(tmp_path / 'a.png', photograph(200, 200))
    with pytest.raises(UserError, match=r'a scene of 200×200 pixels needs .* GB, more than the memory limit of 0.0001'):
        predict_scene(model(), path, tmp_path / 'labels.png', PALETTE, memory=1e5)


def test_the_memory_that_is_asked_for_suffices():
    """It is rounded up to two digits."""
    scene_model = SceneModel(model())
    for side in range(200, 2000, 100):
        with pytest.raises(UserError, match='more than the memory limit') as stopped:
            scene_model.chunk_within(1e5, (side, side), CACHE)
        needed = float(re.search(r'needs (\S+) GB', str(stopped.value))[1])
        scene_model.chunk_within(1e9 * needed, (side, side), CACHE)


@pytest.mark.parametrize('name', ['labels.jpg', 'labels'])
def test_unknown_type_of_labels(tmp_path, name):
    path = png(tmp_path / 'a.png', photograph(64, 64))
    with pytest.raises(UserError, match=r'must be one of \.tif, \.tiff, \.png'):
        predict_scene(model(), path, tmp_path / name, PALETTE)


def test_unknown_type_of_preview(tmp_path):
    path = png(tmp_path / 'a.png', photograph(64, 64))
    with pytest.raises(UserError, match=r'preview .* must be one of \.png, \.jpg, \.jpeg'):
        predict_scene(model(), path, tmp_path / 'labels.png', PALETTE, preview=tmp_path / 'preview.xyz')
    assert not (tmp_path / 'labels.png').exists()


def test_preview_that_cannot_be_written(tmp_path):
    """It is found before the scene is segmented."""
    path = png(tmp_path / 'a.png', photograph(64, 64))
    with pytest.raises(UserError, match=r'cannot write .*preview\.png'):
        predict_scene(model(), path, tmp_path / 'labels.png', PALETTE, preview=path / 'preview.png')
    assert [file.name for file in tmp_path.iterdir()] == ['a.png']


def test_labels_never_replace_the_image(tmp_path):
    path = png(tmp_path / 'a.png', photograph(64, 64))
    with pytest.raises(UserError, match='must be different files'):
        predict_scene(model(), path, path, PALETTE)
    for preview in (path, tmp_path / 'labels.png'):
        with pytest.raises(UserError, match='must be different files'):
            predict_scene(model(), path, tmp_path / 'labels.png', PALETTE, preview=preview)
    with pytest.raises(UserError, match='the memory limit is for one pass'):
        predict_scene(model(), path, tmp_path / 'labels.png', PALETTE, mode='slide', memory=1e9)
    assert [file.name for file in tmp_path.iterdir()] == ['a.png']


@pytest.mark.parametrize('size', [128, 2048])
@pytest.mark.parametrize('suffix', ['.tif', '.png'])
def test_full_disk_leaves_nothing(full_disk, tmp_path, size, suffix):
    raster = SimpleNamespace(size=(size, size), georeference={})
    noise = np.random.default_rng(0).integers(0, 255, (size, size), np.uint8)
    with (
        pytest.raises(UserError, match='make room on the disk'),
        write_labels(tmp_path / f'labels{suffix}', raster, [(0, 0, 0)] * 256) as writer,
    ):
        writer.write(noise, Window(0, 0, size, size))
    assert not list(tmp_path.iterdir())


def test_damage_found_halfway_leaves_nothing(scene_tif, tmp_path):
    """The last tiles of the file are overwritten."""
    path = tmp_path / 'broken.tif'
    with (
        rasterio.open(scene_tif) as scene,
        rasterio.open(path, 'w', **scene.profile | dict(compress='deflate')) as file,
    ):
        file.write(scene.read())
    data = bytearray(path.read_bytes())
    data[-3000:] = bytes(3000)
    path.write_bytes(data)
    out = tmp_path / 'out'
    with pytest.raises(UserError, match='is damaged'):
        predict_scene(model(), path, out / 'labels.tif', PALETTE)
    assert not out.exists() or not list(out.iterdir())


# The tool, and shipped models


@pytest.fixture
def files(tmp_path):
    cfg = config()
    metainfo = dict(classes=('sea', 'land', 'ice'), palette=PALETTE)
    cfg.test_dataloader = dict(dataset=dict(type='BaseSegDataset', metainfo=metainfo, pipeline=[]))
    cfg.dump(tmp_path / 'config.py')
    torch.save(dict(state_dict=model().state_dict(), meta={}), tmp_path / 'model.pth')
    return tmp_path / 'config.py', tmp_path / 'model.pth'


def test_tool(files, scene_tif, tmp_path, run_tool):
    out = tmp_path / 'out' / 'labels.tif'
    done = run_tool('scene_demo.py', *files, scene_tif, '--out', out, '--memory', 1)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.parent.iterdir()) == ['labels.tif', 'labels_preview.png']
    with rasterio.open(out) as file:
        assert file.crs == 'EPSG:4326'
        assert file.read(1).max() == 2


def test_tool_says_what_is_wrong(files, tmp_path, run_tool):
    done = run_tool('scene_demo.py', *files, write_tif(tmp_path / 'a.tif', bands=4), '--out', tmp_path / 'b.tif')
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith('error: image ')
    assert not (tmp_path / 'b.tif').exists()


@pytest.mark.parametrize('tool', ['image_demo.py', 'scene_demo.py'])
def test_unknown_device(files, scene_tif, tmp_path, run_tool, tool):
    done = run_tool(tool, *files, scene_tif, '--out', tmp_path / 'out.tif', '--device', 'tpu')
    assert done.returncode == 2
    assert 'argument --device: tpu cannot be used: ' in done.stderr


def test_influence_of_a_box(files, scene_tif, tmp_path, run_tool):
    """The change outside the box by hand, for the box in its mean colour."""
    out = tmp_path / 'influence.png'
    done = run_tool('scene_influence.py', *files, scene_tif, '--box', 39, 21, 42, 50, '--out', out)
    assert done.returncode == 0, done.stderr
    assert Image.open(out).size[0] > 1000
    image = photograph(120, 200).astype(float)  # 4×4 patches within columns 39 to 81 and rows 21 to 71
    box = slice(24, 68), slice(40, 80)
    before = whole_logits(model(), image)[0].softmax(0)
    image[box] = image[box].mean((0, 1))
    change = (whole_logits(model(), image)[0].softmax(0) - before).abs().sum(0) / 2
    outside = torch.ones_like(change, dtype=torch.bool)
    outside[box] = False
    inside, beyond = change[~outside].mean(), change[outside].mean()
    shown = f'{inside:.1%} of the probabilities change inside the box, {beyond:.2%} outside'
    assert f'replaced by its mean colour: {shown}' in done.stdout
    assert beyond > 1e-4


def test_shuffling_keeps_the_patches_of_a_row():
    tool = load_tool('scene_influence.py')
    image = torch.arange(3 * 8 * 20.0).reshape(1, 3, 8, 20)
    shuffled = tool.alterations(image, Window(4, 4, 4, 12), (2, 3), seed=0)['patches shuffled in rows']
    assert not shuffled.equal(image)
    for row in (4, 6):
        before, after = (
            {tuple(x[..., row : row + 2, left : left + 3].flatten().tolist()) for left in (4, 7, 10, 13)}
            for x in (image, shuffled)
        )
        assert before == after
    shuffled[..., 4:8, 4:16] = image[..., 4:8, 4:16]
    assert shuffled.equal(image)


@pytest.mark.parametrize('box', [(0, 0, 3, 90), (190, 0, 0, 20), (198, 0, 20, 20), (-20, 5, 10, 10)])
def test_box_without_a_patch(files, scene_tif, tmp_path, run_tool, box):
    done = run_tool('scene_influence.py', *files, scene_tif, '--out', tmp_path / 'a.png', '--box', *box)
    assert done.returncode == 1
    text = ' '.join(map(str, box))
    assert done.stderr.splitlines()[-1] == (
        f'error: --box {text} holds no patch of 4×4 of the image of 200×120: choose another'
    )
    assert not (tmp_path / 'a.png').exists()


def test_box_of_the_whole_image():
    with pytest.raises(UserError, match='--box is the whole image'):
        load_tool('scene_influence.py').whole_patches([0, 0, 200, 120], (4, 4), (120, 200))


def test_influence_needs_patches_of_memory(files, scene_tif, tmp_path, run_tool):
    pooled = dict(memory_embed=dict(type='PooledTokens', grid=4), process_embed=dict(type='PatchTokens', patch_size=8))
    config(**pooled).dump(files[0])
    torch.save(dict(state_dict=model(**pooled).state_dict(), meta={}), files[1])
    done = run_tool('scene_influence.py', *files, scene_tif, '--out', tmp_path / 'a.png', '--box', 0, 0, 20, 20)
    assert done.returncode == 1
    assert 'has no ViTTM with a memory of PatchTokens as its backbone' in done.stderr.splitlines()[-1]


def shipped(files, name):
    """A folder like those of weights/."""
    config, checkpoint = files
    folder = config.parent / 'shipped'
    folder.mkdir()
    content = serialize(torch.load(checkpoint)['state_dict'], {}, '.safetensors')
    (folder / 'config.py').write_text(config.read_text())
    (folder / name.format(hashlib.sha256(content).hexdigest()[:8])).write_bytes(content)
    return folder


def test_three_lines_of_python(files, scene_tif, tmp_path):
    loaded = load_shipped_model(shipped(files, 'model-{}.safetensors'))
    predict_scene(loaded, scene_tif, tmp_path / 'labels.png')
    labels = Image.open(tmp_path / 'labels.png')
    _, expected = whole_logits(model(), photograph(120, 200))
    assert (np.asarray(labels) == expected).mean() > 0.9999
    assert labels.getpalette()[:9] == [value for colour in PALETTE for value in colour]


@pytest.mark.parametrize(
    ('name', 'problem'),
    [('model-01234567.safetensors', 'its SHA-256 sum does not begin'), ('model.safetensors', 'holds 0 files')],
)
def test_damaged_shipped_model(files, name, problem):
    with pytest.raises(UserError, match=problem):
        load_shipped_model(shipped(files, name))


def test_missing_shipped_model(tmp_path):
    with pytest.raises(UserError, match=r'folder not found: .*earth; weights/ is in the repository'):
        load_shipped_model(tmp_path / 'earth')


def test_a_classifier_is_no_segmentor(tmp_path):
    folder = make_models(tmp_path)
    with pytest.raises(UserError, match=r'classifier\.py is no segmentor'):
        load_segmentor(folder / 'classifier.py', folder / 'classifier.pth')


def test_a_cascade_slides_only(tmp_path):
    cfg = config(stream='memory')
    heads = [
        cfg.model.decode_head | dict(type=name, channels=8, in_channels=16, in_index=-1, **options)
        for name, options in [('FCNHead', {}), ('OCRHead', dict(ocr_channels=8))]
    ]
    for head in heads:
        del head['token_channels'], head['upscale']
    cfg.model |= dict(type='CascadeEncoderDecoder', num_stages=2, decode_head=heads)
    cfg.dump(tmp_path / 'cascade.py')
    torch.save(build_model(cfg).state_dict(), tmp_path / 'cascade.pth')
    net = load_segmentor(tmp_path / 'cascade.py', tmp_path / 'cascade.pth')
    path = png(tmp_path / 'a.png', photograph(64, 64))
    with pytest.raises(UserError, match='a CascadeEncoderDecoder cannot segment a scene in one pass'):
        predict_scene(net, path, tmp_path / 'labels.png', PALETTE)
    net.test_cfg = dict(mode='slide', crop_size=(32, 32), stride=(32, 32))
    predict_scene(net, path, tmp_path / 'labels.png', PALETTE, mode='slide')
