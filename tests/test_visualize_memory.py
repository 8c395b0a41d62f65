"""mmvittm/apis/memory.py and tools/visualize_memory.py: the maps, the overview and the page, also in a browser."""

import base64
import gzip
import json
import re
import shutil
import sys

import mmcv
import numpy as np
import pytest
import torch
from helpers.deployment import make_models, photograph
from helpers.tiny import images, one_thread, randomize, tiny_vittm  # noqa: F401
from helpers.tools import call_tool, load_tool
from mmengine.config import Config
from PIL import Image

from mmvittm.apis.config import build_model, load_config
from mmvittm.apis.inference import eager_predictor
from mmvittm.apis.memory import find_backbone, principal_colours, receptive_fields, record
from mmvittm.errors import UserError
from mmvittm.models.streams import Grids

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason='no browser: apt-get install chromium')
TOOL = 'visualize_memory.py'


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    """Write the models of `helpers.deployment`, the segmentor with two blocks of two attention heads, and an image."""
    folder = make_models(tmp_path_factory.mktemp('models'))
    Image.fromarray(photograph(24, 32, seed=5)).save(folder / 'image.png')
    return folder


@pytest.fixture(scope='module')
def drawn(models, tmp_path_factory):
    """Overview and page of a test image of the segmentor, without their endings."""
    out = tmp_path_factory.mktemp('drawn') / 'out'
    with pytest.MonkeyPatch.context() as monkeypatch:
        visualize(monkeypatch, models, models / 'data/images/1.png', '--out', out)
    return out


def visualize(monkeypatch, models, *options, model='segmentor'):
    call_tool(monkeypatch, TOOL, models / f'{model}.py', models / f'{model}.pth', *options)


def page_data(path):
    return json.loads(re.search(r'const DATA = (.*)\n', path.read_text()).group(1))


def unpack(text, dtype):
    return np.frombuffer(gzip.decompress(base64.b64decode(text)), dtype)


# Recording


@pytest.mark.parametrize('chunk', [None, 3])
def test_recorded_tokens_and_maps_are_the_models(chunk):
    model = tiny_vittm(out_indices=(0, 1), out_stream='tokens', memory_chunk=chunk)
    grids, blocks = record(model, images(1))
    assert grids == ((2, 2), (4, 4))
    for block, (_, memory) in zip(blocks, model(images(1)), strict=True):
        torch.testing.assert_close(block.tokens.memory, memory[0], rtol=1e-4, atol=1e-4)
        assert block.read.weights.shape == (2, 4, 16)
        assert block.write.weights.shape == (2, 16, 4)
    layer = model.layers[0]
    process, memory = (layer.read_norm(tokens) for tokens in model._embed(images(1))[0])
    torch.testing.assert_close(blocks[0].read.weights, layer.read_head.attention_map(memory, process)[0])
    change = layer.read_head(memory, process).norm(dim=2) / process.norm(dim=2)
    torch.testing.assert_close(blocks[0].read.change, change[0])
    assert model.memory_chunk == chunk
    assert not layer.read_head._forward_hooks


def test_regions_cannot_be_drawn():
    with pytest.raises(UserError, match='a ViTTM with rw_region has a map for each region'):
        record(tiny_vittm(rw_region=(1, 1)), images(1))


def test_a_write_without_effect_is_not_recorded():
    blocks = record(tiny_vittm(), images(1)).blocks
    assert [block.write is None for block in blocks] == [False, True]


def test_a_head_without_a_map_is_refused():
    with pytest.raises(UserError, match='TokenLearner has no attention map'):
        record(tiny_vittm('TokenLearner'), images(1))


def test_a_model_without_memory_is_refused():
    with pytest.raises(UserError, match='the model has no ViTTM'):
        find_backbone(torch.nn.Linear(2, 2))


def test_receptive_field_is_the_norm_of_the_jacobian():
    model = tiny_vittm(out_stream='tokens', out_indices=(0, 1)).double()
    image = images(1).double()
    fields = receptive_fields(model, image, (3, 7), probes=400)
    jacobian = torch.autograd.functional.jacobian(lambda x: model(x)[1][1][0, 7], image)
    torch.testing.assert_close(fields[1].memory, jacobian[:, 0].square().sum((0, 1)).sqrt(), rtol=0.3, atol=1e-4)
    assert len(fields) == 2
    assert fields[0].process.shape == (16, 16)


def test_colours_follow_the_block_before():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(50, 8, generator=generator) * torch.tensor([9.0, 5, 3, 0.1, 0.1, 0.1, 0.1, 0.1])
    first, second = principal_colours([tokens, -tokens.roll(1, 1)])
    torch.testing.assert_close(first, second, rtol=0, atol=1e-3)
    assert first.amin(0).tolist() == [0, 0, 0]
    assert first.amax(0).tolist() == [1, 1, 1]


@pytest.mark.parametrize('tokens', [1, 2])
def test_few_tokens_have_colours(tokens):
    for colours in principal_colours([torch.randn(tokens, 8), torch.randn(tokens, 8)]):
        assert colours.shape == (tokens, 3)
        assert colours.isfinite().all()


# The tool


def test_page_holds_the_maps_of_every_head(models, drawn):
    data = page_data(drawn.with_suffix('.html'))
    assert (data['size'], data['grids']) == ([24, 32], dict(process=[3, 4], memory=[6, 8]))
    model = eager_predictor(models / 'segmentor.py', models / 'segmentor.pth').model
    resized = mmcv.imrescale(mmcv.imread(models / 'data/images/1.png'), (32, 24))  # the scale in the config
    normalised = mmcv.imnormalize(resized, np.array([120.0, 115, 100]), np.array([58.0, 57, 56]))
    expected = record(model.backbone, torch.from_numpy(normalised.transpose(2, 0, 1)[None])).blocks[0]
    for kind in ('read', 'write'):
        weights = getattr(expected, kind).weights.numpy()
        packed = data['blocks'][0][kind]
        low, high = (unpack(packed[name], np.float32).reshape(2, -1, 1) for name in ('low', 'high'))
        levels = unpack(packed['values'], np.uint8).reshape(weights.shape)
        assert np.abs(low + (high - low) * levels / 255 - weights).max() <= (high - low).max() / 255
    assert Image.open(drawn.with_suffix('.png')).size[0] > 1000


def test_page_needs_no_network(drawn):
    assert not re.search(r'(src|href)\s*=\s*.?http|url\(|@import|import ', drawn.with_suffix('.html').read_text())


def test_truth_is_that_of_the_test_data(models, drawn, tmp_path, monkeypatch):
    truth = models / 'data/labels/1.png'
    visualize(monkeypatch, models, models / 'image.png', '--truth', truth, '--out', tmp_path / 'given')
    found, given = (page_data(path.with_suffix('.html'))['label_maps'] for path in (drawn, tmp_path / 'given'))
    assert list(found) == ['prediction', 'truth']
    assert found['truth'] == given['truth']
    assert found['prediction'] != given['prediction']


def test_truth_is_read_as_the_data_set_reads_it(tmp_path):
    tool, labels, image = load_tool(TOOL), np.uint8([[0, 1], [2, 150]]), tmp_path / 'images/validation/a.jpg'
    Image.fromarray(labels).save(tmp_path / 'truth.png')
    dataset = dict(type='mmseg.ADE20KDataset', data_root=str(tmp_path), data_prefix=dict(img_path='', seg_map_path=''))
    cfg = Config(dict(default_scope='mmseg', test_dataloader=dict(dataset=dataset)))
    np.testing.assert_array_equal(tool.read_truth(cfg, image, tmp_path / 'truth.png', 150), [[255, 0], [1, 149]])
    assert tool.read_truth(cfg, image, None, 150) is None
    cfg.pop('test_dataloader')
    np.testing.assert_array_equal(tool.read_truth(cfg, image, tmp_path / 'truth.png', 151), labels)


def test_a_classifier_has_no_truth(models, tmp_path, monkeypatch):
    options = ['--truth', models / 'image.png', '--out', tmp_path / 'out']
    with pytest.raises(UserError, match='--truth is the label map of a segmentor'):
        visualize(monkeypatch, models, models / 'image.png', *options, model='classifier')


def test_a_classifier_has_scores_for_a_legend(models, tmp_path, monkeypatch):
    visualize(monkeypatch, models, models / 'image.png', '--out', tmp_path / 'out', model='classifier')
    data = page_data(tmp_path / 'out.html')
    assert data['label_maps'] == {}
    assert len(data['legend']) == 5


def test_a_large_page_holds_the_mean_of_the_heads(models, tmp_path, monkeypatch):
    tool = load_tool(TOOL)
    monkeypatch.setattr(
        sys, 'argv', [TOOL, *(str(models / name) for name in ('segmentor.py', 'segmentor.pth', 'image.png'))]
    )
    view = tool.run_model(tool.parse_args())
    blocks, heads = tool.packed_maps(view)
    monkeypatch.setattr(tool, 'MOST_BYTES', len(json.dumps(blocks)))
    assert heads == 2
    blocks, heads = tool.packed_maps(view)
    assert heads == 1
    assert len(unpack(blocks[0]['read']['values'], np.uint8)) == 12 * 48
    monkeypatch.setattr(tool, 'MOST_BYTES', 100)
    with pytest.raises(UserError, match=r'the maps of 1 blocks take .* choose fewer'):
        tool.packed_maps(view)


@pytest.mark.parametrize(('place', 'tokens'), [((1, 1), (0, 9)), ((2, 3), (6, 29)), ((3, 4), (11, 47))])
def test_tokens_at_one_place(place, tokens):
    cells = dict(process=[8, 8], memory=[4, 4])
    assert load_tool(TOOL).token_at(place, Grids((3, 4), (6, 8)), cells) == tokens


def test_chosen_blocks(models, tmp_path, monkeypatch):
    config, weights = tmp_path / 'two.py', tmp_path / 'two.pth'
    config.write_text((models / 'segmentor.py').read_text().replace('num_layers=1', 'num_layers=2'))
    torch.save(dict(state_dict=randomize(build_model(load_config(config))).state_dict()), weights)
    tool, words = load_tool(TOOL), (config, weights, models / 'image.png', '--blocks', 2)
    monkeypatch.setattr(sys, 'argv', [TOOL, *map(str, words)])
    view, model = tool.run_model(tool.parse_args()), eager_predictor(config, weights).model
    _, batch = tool.prepare(model, mmcv.imread(models / 'image.png'))
    assert (view.numbers, view.depth) == ([2], 2)
    torch.testing.assert_close(view.recording.blocks[0].tokens, record(model.backbone, batch).blocks[1].tokens)
    torch.testing.assert_close(view.fields[0], receptive_fields(model.backbone, batch, view.tokens)[1])


BAD_ARGUMENTS = {
    'no image': (['{tmp}/none.png'], 'none.png cannot be read'),
    'no such token': (['{models}/image.png', '--token', '4', '1'], '--token 4 1: .* 3 rows and 4 columns'),
    'no such block': (['{models}/image.png', '--blocks', '1', '2'], '--blocks 1 2: the model has blocks 1 to 1'),
    'labels in colour': (
        ['{models}/image.png', '--truth', '{models}/image.png'],
        'has 3 channels: a label map has one',
    ),
}


@pytest.mark.parametrize(('arguments', 'problem'), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments_leave_no_files(models, tmp_path, monkeypatch, arguments, problem):
    arguments = [argument.format(models=models, tmp=tmp_path) for argument in arguments]
    with pytest.raises(UserError, match=problem):
        visualize(monkeypatch, models, *arguments, '--out', tmp_path / 'out')
    assert not list(tmp_path.iterdir())


# The page in a browser


@pytest.fixture(scope='module')
def browser_page(drawn):
    """The page, open in Chromium without network, and its data."""
    playwright = pytest.importorskip('playwright.sync_api')
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        page = browser.new_context(offline=True, viewport=dict(width=1440, height=900)).new_page()
        problems = []
        page.on('pageerror', lambda problem: problems.append(problem))
        page.goto(drawn.with_suffix('.html').as_uri())
        page.wait_for_selector('body[data-ready]')
        yield page
        assert not problems
        browser.close()


def click_token(page, canvas, grid, token):
    """Click the middle of a token on a canvas."""
    box = page.locator(canvas).bounding_box()
    row, column = divmod(token, grid[1])
    # the tokens have 8 pixels (process) or 4 (memory) of the 24 × 32 of the image
    side = box['width'] / 32 * (8 if grid == [3, 4] else 4)
    page.mouse.click(box['x'] + (column + 0.5) * side, box['y'] + (row + 0.5) * side)


def weights_of(data, kind, queries, sources):
    packed = data['blocks'][0][kind]
    low, high = (unpack(packed[name], np.float32).reshape(2, queries, 1) for name in ('low', 'high'))
    levels = unpack(packed['values'], np.uint8).reshape(2, queries, sources)
    return (low + (high - low) * levels / 255).mean(0) * sources


def shown(page, kind):
    """Return the token that a map names as the largest, and its ends."""
    note = page.wait_for_selector(f'#{kind}-note').inner_text()
    row, column = map(int, re.search(r'token \((\d+), (\d+)\)', note).groups())
    low, high = re.findall(r'[\d.]+', page.locator(f'#{kind}-scale').inner_text())
    return (row - 1, column - 1), (float(low), float(high))


@needs_chromium
def test_clicks_show_where_tokens_read_and_write(browser_page, drawn):
    page, data, (process, memory) = browser_page, page_data(drawn.with_suffix('.html')), ([3, 4], [6, 8])
    read, write = weights_of(data, 'read', 12, 48), weights_of(data, 'write', 48, 12)
    click_token(page, '#image', process, 5)
    page.wait_for_function("document.querySelector('#read-title').innerText.includes('process token (2, 2)')")
    for kind, values in (('read', read[5]), ('write', write[:, 5])):
        place, ends = shown(page, kind)
        assert place == divmod(int(values.argmax()), 8)
        assert ends == pytest.approx((values.min(), values.max()), rel=6e-3)
    click_token(page, '#read', memory, 21)
    page.wait_for_function("document.querySelector('#write-title').innerText.includes('memory token (3, 6)')")
    for kind, values in (('read', read[:, 21]), ('write', write[21])):
        place, ends = shown(page, kind)
        assert place == divmod(int(values.argmax()), 4)
        assert ends == pytest.approx((values.min(), values.max()), rel=6e-3)


@needs_chromium
def test_page_draws_all_its_images(browser_page):
    sizes = browser_page.eval_on_selector_all('img', 'images => images.map(image => image.naturalWidth)')
    assert len(sizes) == 10
    assert min(sizes) > 0
    for canvas in ('#image', '#read', '#write'):
        colours = browser_page.evaluate(
            f"""() => {{ const canvas = document.querySelector('{canvas}')
            const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data
            return new Set(new Uint32Array(pixels.buffer)).size }}"""
        )
        assert colours > 10
    assert browser_page.locator('#legend').inner_text()
