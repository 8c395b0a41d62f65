# Baseline: mmpretrain's ViT, which uses PyTorch's fused attention.
_base_ = './upernet.py'
patch_size = 16
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=patch_size)),
    backbone=dict(
        type='mmpretrain.VisionTransformer',
        arch='base',
        patch_size=patch_size,
        out_type='featmap',
        out_indices=(2, 5, 8, 11),
        drop_path_rate=0.1,
    ),
)
