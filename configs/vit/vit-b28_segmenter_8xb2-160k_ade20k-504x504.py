# Control: as many process tokens as ViTTM-B 28/28, and no memory.
_base_ = [
    '../_base_/models/segmenter_vit-b16.py',
    '../_base_/datasets/ade20k_504x504.py',
    '../_base_/schedules/sgd_160k.py',
    '../_base_/default_runtime.py',
]
patch_size = 28
model = dict(
    data_preprocessor=dict(size=_base_.crop_size, test_cfg=dict(size_divisor=patch_size)),
    backbone=dict(img_size=_base_.crop_size, patch_size=patch_size),
)
