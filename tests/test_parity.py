"""The same numbers as the authors' implementation, through the conversion of their checkpoints."""

import pytest
import torch
from helpers.golden import CASES, Golden, relative_error
from mmpretrain.registry import MODELS

from mmvittm.weights import authors_to_mmvittm

WITH_MAPS = ('linear_add_m4_p8', 'linear_add_m8_p8', 'linear_add_resized_input')


def test_all_cases_are_there():
    assert len(CASES) == 11
    assert tuple(name for name in CASES if Golden.load(name).features) == WITH_MAPS


@torch.inference_mode()
@pytest.mark.parametrize('name', CASES)
def test_tokens(name):
    golden = Golden.load(name)
    process, memory = golden.build_backbone(out_indices=-1, out_stream='tokens')(golden.tensors['input'])[0]
    assert relative_error(process, golden.tensors['process_tokens']) < 1e-5
    assert relative_error(memory, golden.tensors['memory_tokens']) < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize('name', WITH_MAPS)
def test_maps(name):
    golden = Golden.load(name)
    maps = golden.build_backbone()(golden.tensors['input'])
    for ours, reference in zip(maps, golden.features.values(), strict=True):
        assert relative_error(ours, reference) < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize('name', CASES)
def test_logits(name):
    """Of a whole mmpretrain classifier, loaded strictly."""
    golden = Golden.load(name)
    memory, process = golden.tensors['memory_logits'], golden.tensors['process_logits']
    expected = dict(memory=memory, process=process, mean=(memory + process) / 2)
    backbone = dict(golden.backbone_cfg(), type='mmvittm.ViTTM', out_indices=-1, out_stream='tokens')
    for predict_from, logits in expected.items():
        head = dict(type='mmvittm.ViTTMClsHead', num_classes=7, in_channels=16, predict_from=predict_from)
        model = MODELS.build(dict(type='ImageClassifier', backbone=backbone, head=head)).eval()
        model.load_state_dict(authors_to_mmvittm(golden.weights), strict=True)
        assert relative_error(model(golden.tensors['input'], mode='tensor'), logits) < 1e-5
