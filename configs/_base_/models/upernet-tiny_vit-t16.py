# The baseline: mmpretrain's ViT, whose attention is fused.
_base_ = './upernet-tiny.py'
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=16)),
    backbone=dict(
        type='mmpretrain.VisionTransformer',
        arch='deit-tiny',
        patch_size=16,
        out_type='featmap',
        out_indices=(2, 5, 8, 11),
    ),
)
