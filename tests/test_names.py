"""The ways to reach a model: imports, names, folders, the command line, and files beside a config."""

import subprocess
import sys
from pathlib import Path

import mmpretrain
import pytest
import torch
from conftest import ROOT
from helpers.tiny import images, randomize, tiny_backbone, tiny_vittm
from helpers.tools import OURS_ALONE
from mmengine.config import Config
from mmengine.registry import MODELS
from mmseg.apis import MMSegInferencer
from safetensors.torch import load_file, save_file

import mmvittm
from mmvittm import ViTTM
from mmvittm.__main__ import COMMANDS, TOOLS, main
from mmvittm.apis.config import build_model, load_config
from mmvittm.errors import UserError
from mmvittm.models.fusions import EraseFusion
from mmvittm.models.rw_heads import LinearAttention
from mmvittm.models.token_embeds import resample_pos_embed
from mmvittm.registry import RW_HEADS

SEGMENTOR = 'vittm-b_28-28_upernet_8xb2-160k_ade20k-504x504'
CLASSIFIER = 'vittm-s_28-28_in21k-p-pre_32xb128-300e_in1k'


def test_backbone_is_imported_lazily():
    script = "import sys, mmvittm; print('mmpretrain' in sys.modules); print(mmvittm.ViTTM); print(mmvittm.other)"
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split('\n')[0] == 'False'
    assert 'backbones.vittm.ViTTM' in done.stdout
    assert "module 'mmvittm' has no attribute 'other'" in done.stderr


def test_mmpretrain_lists_and_builds_the_classifiers():
    names = mmpretrain.list_models('*vittm*')
    assert CLASSIFIER in names and SEGMENTOR not in names
    model = mmpretrain.get_model(CLASSIFIER, backbone=dict(arch='tiny', init_cfg=None), head=dict(in_channels=192))
    assert type(model.backbone) is ViTTM and model.head.num_classes == 1000


def test_mmseg_inferencer_by_name(monkeypatch):
    asked = []
    monkeypatch.setattr(MMSegInferencer, '_init_model', lambda self, cfg, *rest: asked.append(cfg) or torch.nn.Module())
    MMSegInferencer(SEGMENTOR, device='cpu', classes=['a'], palette=[[0, 0, 0]])
    assert asked[0].model.backbone.type == 'mmvittm.ViTTM'
    assert asked[0].filename == mmvittm.config_file(f'vittm/{SEGMENTOR}.py')


@pytest.mark.parametrize('name', ['metafile.yml', 'metafile_classification.yml'])
def test_every_model_of_the_index_has_its_config(name):
    models = Config.fromfile(ROOT / 'configs/vittm' / name).Models
    assert models
    for model in models:
        assert (ROOT / model.Config).stem == model.Name and (ROOT / model.Config).is_file()
    assert f'configs/vittm/{name}' in (ROOT / 'model-index.yml').read_text()


def test_save_and_load_a_folder(tmp_path):
    model = tiny_vittm(head='LatentCrossAttention', memory_block='MemoryMLP', out_stream=('memory',))
    model.save_pretrained(tmp_path / 'tiny')
    assert {path.name for path in (tmp_path / 'tiny').iterdir()} >= {'config.json', 'model.safetensors'}
    again = ViTTM.from_pretrained(tmp_path / 'tiny').eval()
    torch.testing.assert_close(again(images()), model(images()), rtol=0, atol=0)
    larger = ViTTM.from_pretrained(tmp_path / 'tiny', img_size=32)
    assert larger.memory_embed.pos_embed.shape[1] == 64 and larger.out_stream == ('memory',)
    with pytest.raises(UserError, match='does not fit the arguments given: missing: layers'):
        ViTTM.from_pretrained(tmp_path / 'tiny', memory_block=dict(type='MemoryConvNeXt'))
    (tmp_path / 'tiny/config.json').unlink()
    with pytest.raises(UserError, match=r'config\.json is missing: save the model with save_pretrained'):
        ViTTM.from_pretrained(tmp_path / 'tiny')


def test_load_a_folder_at_another_size(tmp_path):
    """A grid of 9×16 has the length of one of 12×12."""
    model = tiny_vittm(img_size=(36, 64))
    model.save_pretrained(tmp_path)
    larger = ViTTM.from_pretrained(tmp_path, img_size=(72, 128))
    expected = resample_pos_embed(model.memory_embed.pos_embed, (9, 16), (18, 32))
    assert torch.equal(larger.memory_embed.pos_embed, expected)


def test_saved_from_a_config(tmp_path):
    """mmengine passes the arguments as ConfigDict."""
    model = MODELS.build(Config(dict(model=tiny_backbone())).model).eval()
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(ViTTM.from_pretrained(tmp_path).eval()(images()), model(images()), rtol=0, atol=0)


def test_saved_with_classes_for_types(tmp_path):
    class Mine(LinearAttention):
        """Registered under another name than its own."""

    RW_HEADS.register_module(name='my-head', module=Mine, force=True)
    cfg = tiny_backbone(fusion=dict(type=EraseFusion), rw_head=dict(type=Mine))
    model = randomize(MODELS.build(cfg)).eval()
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(ViTTM.from_pretrained(tmp_path).eval()(images()), model(images()), rtol=0, atol=0)


def test_pretrained_weights_are_complete_and_stay(tmp_path):
    (model := tiny_vittm(drop_path_rate=0.5)).save_pretrained(tmp_path)
    loaded = ViTTM.from_pretrained(tmp_path)
    assert not loaded.training
    loaded.init_weights()  # mmengine's Runner calls it
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    weights = load_file(tmp_path / 'model.safetensors')
    save_file({f'backbone.{name}': value for name, value in weights.items()}, tmp_path / 'model.safetensors')
    with pytest.raises(UserError, match=r'model\.safetensors does not fit the model: missing: '):
        ViTTM.from_pretrained(tmp_path)


def test_one_line_builds_on_a_config(tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text(
        "_base_ = __import__('mmvittm').config_file('vittm_upernet_ade20k.py')\n"
        "model = dict(backbone=dict(arch='tiny'))\n"
    )
    assert Config.fromfile(config).model.backbone.arch == 'tiny'


HEAD = """
import torch
from mmvittm.models.rw_heads import RWHead
from mmvittm.registry import RW_HEADS

@RW_HEADS.register_module()
class {name}(RWHead):
    def __init__(self, embed_dims, num_heads):
        super().__init__(embed_dims, num_heads)

    def forward(self, source, query):
        return source.mean(1, keepdim=True).expand_as(query)
"""


@pytest.mark.parametrize('where', ['beside', 'cwd'])
def test_modules_beside_a_config_are_found(tmp_path, monkeypatch, where):
    monkeypatch.setattr(sys, 'path', [*sys.path])
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'cwd').mkdir()
    monkeypatch.chdir(tmp_path / 'cwd')
    folder = tmp_path / ('configs' if where == 'beside' else 'cwd')
    (folder / f'head_{where}.py').write_text(HEAD.format(name=f'Head{where}'))
    (tmp_path / 'configs/config.py').write_text(
        f"custom_imports = dict(imports=['mmvittm.models', 'head_{where}'])\ndefault_scope = 'mmseg'\n"
        f'model = {tiny_backbone(rw_head=dict(type=f"Head{where}"))!r}\n'
    )
    before = [*sys.path]
    model = build_model(load_config(tmp_path / 'configs/config.py'))
    assert sys.path[: len(before)] == before, 'behind what is installed'
    assert type(model.layers[0].read_head).__name__ == f'Head{where}'


def test_command_runs_a_tool(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['mmvittm', 'train', 'no_such.py'])
    with pytest.raises(SystemExit, match=r'error: config not found: no_such\.py'):
        main()
    monkeypatch.setattr(sys, 'argv', ['mmvittm', 'convert', 'to-authors', '--help'])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out.startswith('usage: mmvittm convert to-authors [-h]')


def test_help_lists_every_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['mmvittm', '--help'])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(COMMANDS) + 2
    assert all(len(line) < 140 for line in lines)
    assert any(line.split()[:4] == ['fps', 'Compare', 'the', 'speed'] for line in lines)
    runnable = {str(path.relative_to(TOOLS)) for path in TOOLS.rglob('*.py') if 'run_tool(main)' in path.read_text()}
    without_command = {Path(tool).stem for tool in runnable - set(COMMANDS.values())}
    assert without_command == OURS_ALONE | {'prediction_grid'}


def test_unknown_command(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['mmvittm', 'trian'])
    with pytest.raises(SystemExit, match='error: no such command: trian'):
        main()
