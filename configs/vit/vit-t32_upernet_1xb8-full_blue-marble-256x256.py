# Control: as many process tokens as ViTTM-T 16/32, and no memory.
_base_ = './vit-t16_upernet_1xb8-full_blue-marble-256x256.py'
patch_size = 32
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=patch_size)),
    backbone=dict(patch_size=patch_size),
)
