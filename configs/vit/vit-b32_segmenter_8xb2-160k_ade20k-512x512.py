# Control: as many process tokens as ViTTM-B 16/32, and no memory.
_base_ = './vit-b16_segmenter_8xb2-160k_ade20k-512x512.py'
patch_size = 32
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=patch_size)),
    backbone=dict(patch_size=patch_size),
)
