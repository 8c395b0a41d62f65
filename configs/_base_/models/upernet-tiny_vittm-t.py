_base_ = './upernet-tiny.py'
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=32)),
    backbone=dict(
        type='mmvittm.ViTTM',
        arch='tiny',
        memory_embed=dict(type='PatchTokens', patch_size=16),
        process_embed=dict(type='PatchTokens', patch_size=32),
        out_indices=(2, 5, 8, 11),
        out_stream='process',
    ),
)
