_base_ = './scene_vit-t.py'
patch_size = 28
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=patch_size)),
    backbone=dict(arch='base', patch_size=patch_size),
    decode_head=dict(in_channels=[768, 768, 768, 768], upscale=7),
    test_cfg=dict(crop_size=(504, 504), stride=(336, 336)),
)
