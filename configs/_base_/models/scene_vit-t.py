_base_ = './scene_pixel-shuffle.py'
patch_size = 16
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=patch_size)),
    backbone=dict(
        type='mmpretrain.VisionTransformer',
        arch='deit-tiny',
        img_size=512,
        patch_size=patch_size,
        out_type='featmap',
    ),
)
