# Process-token maps of blocks 3, 6, 9 and 12.
_base_ = './upernet.py'
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=28)),
    backbone=dict(
        type='mmvittm.ViTTM',
        arch='base',
        memory_embed=dict(type='PatchTokens', patch_size=28),
        process_embed=dict(type='PatchTokens', patch_size=28),
        out_indices=(2, 5, 8, 11),
        out_stream='process',
        drop_path_rate=0.1,
        rw_drop_path_rate=0.1,
    ),
)
