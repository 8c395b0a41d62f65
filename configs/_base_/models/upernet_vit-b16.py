# The baseline: mmpretrain's ViT, whose attention is fused.
_base_ = './upernet.py'
model = dict(
    backbone=dict(
        type='mmpretrain.VisionTransformer',
        arch='base',
        patch_size=16,
        out_type='featmap',
        out_indices=(2, 5, 8, 11),
        drop_path_rate=0.1,
    ),
)
