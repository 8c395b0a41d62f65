"""Tiny models to export, as configs and checkpoints on disk, and an export of 0.1.0."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.utils import digit_version
from PIL import Image

from helpers.tiny import randomize
from mmvittm.apis.config import build_model, load_config
from mmvittm.deploy.program import OLDEST_TORCH

ROOT = Path(__file__).parents[2]

needs_torch_export = pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version(OLDEST_TORCH), reason=f'exporting needs torch {OLDEST_TORCH}'
)

BACKBONE = """
custom_imports = dict(imports=['mmvittm'])
backbone = dict(
    type='mmvittm.ViTTM',
    arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32),
    img_size=16,
    memory_embed=dict(type='PatchTokens', patch_size=4),
    process_embed=dict(type='PatchTokens', patch_size=8),
)
"""
SEGMENTOR = (
    BACKBONE
    + """
default_scope = 'mmseg'
backbone.update(out_stream='concat')
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[120.0, 115.0, 100.0], std=[58.0, 57.0, 56.0], bgr_to_rgb=True,
        pad_val=0, seg_pad_val=255, test_cfg=dict(size_divisor=8)),
    backbone=backbone,
    decode_head=dict(
        type='FCNHead', in_channels=32, in_index=0, channels=8, num_convs=1, num_classes=3, align_corners=False,
        norm_cfg=dict(type='BN'), loss_decode=dict(type='CrossEntropyLoss')),
    test_cfg=dict(mode='whole'))
test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset', data_root={data!r}, data_prefix=dict(img_path='images', seg_map_path='labels'),
        img_suffix='.png', seg_map_suffix='.png',
        metainfo=dict(classes=('sea', 'land', 'ice'), palette=[[0, 0, 255], [0, 128, 0], [255, 255, 255]]),
        pipeline=[
            dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 24), keep_ratio=True),
            dict(type='LoadAnnotations'), dict(type='PackSegInputs')]))
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_cfg = dict(type='mmvittm.CheckedTestLoop')
"""
)
CLASSIFIER = (
    BACKBONE
    + """
default_scope = 'mmpretrain'
backbone.update(out_stream='tokens')
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(type='ClsDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3, num_classes=6),
    backbone=backbone,
    head=dict(type='mmvittm.ViTTMClsHead', num_classes=6, in_channels=16))
test_dataloader = dict(dataset=dict(type='CustomDataset', data_prefix='none', classes=list('abcdef'), pipeline=[
    dict(type='LoadImageFromFile'), dict(type='ResizeEdge', scale=24, edge='short'),
    dict(type='CenterCrop', crop_size=24), dict(type='PackInputs')]))
"""
)


# As 0.1.0 wrote it for SEGMENTOR.
METADATA_0_1_0 = (
    '{"task": "segmentation", "shape": [24, 32], "fit": "inside", "channel_order": "rgb", '
    '"mean": [120.0, 115.0, 100.0], "std": [58.0, 57.0, 56.0], "pad_value": 0.0, "align_corners": false, '
    '"classes": ["sea", "land", "ice"], "palette": [[0, 0, 255], [0, 128, 0], [255, 255, 255]], '
    '"config": "segmentor", "checkpoint": "segmentor.pth", "version": "0.1.0", "dtype": "fp32"}'
)


def write_onnx(path, metadata=METADATA_0_1_0):
    """Write an ONNX file with the metadata and names of 0.1.0 whose network is one convolution; return its weight."""
    onnx = pytest.importorskip('onnx')
    weight = np.random.default_rng(0).standard_normal((3, 3, 4, 4)).astype(np.float32)
    sizes = dict(images=['s34', 3, 24, 32], conv2d_2=['s34', 3, 6, 8])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, size) for name, size in sizes.items()]
    node = onnx.helper.make_node('Conv', ['images', 'weight'], ['conv2d_2'], strides=[4, 4])
    graph = onnx.helper.make_graph(
        [node], 'main_graph', values[:1], values[1:], [onnx.numpy_helper.from_array(weight, 'weight')]
    )
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid('', 18)])
    if metadata:
        onnx.helper.set_model_props(model, dict(mmvittm=metadata))
    onnx.save(model, path)
    return weight


def photograph(height, width, seed=0):
    """A smooth image ``(height, width, 3)``, uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def make_models(folder):
    """Write `segmentor.py`, `classifier.py`, a checkpoint of each and the segmentor's test data."""
    data = folder / 'data'
    for name in ('images', 'labels'):
        (data / name).mkdir(parents=True)
    for index in range(3):
        Image.fromarray(photograph(48, 64, index)).save(data / 'images' / f'{index}.png')
        labels = photograph(48, 64, 9 + index)[..., 0] // 86
        Image.fromarray(labels).save(data / 'labels' / f'{index}.png')
    for name, text in (('segmentor', SEGMENTOR.replace('{data!r}', repr(str(data)))), ('classifier', CLASSIFIER)):
        config = folder / f'{name}.py'
        config.write_text(text)
        model = randomize(build_model(load_config(config)))
        torch.save(dict(state_dict=model.state_dict(), meta={}), folder / f'{name}.pth')
    return folder
