# The baseline: mmpretrain's ViT, whose attention is fused.
_base_ = './segmenter.py'
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=16)),
    backbone=dict(
        type='mmpretrain.VisionTransformer',
        arch='base',
        patch_size=16,
        out_type='featmap',
        drop_path_rate=0.1,
    ),
)
