# UperNet on the process maps of blocks 3, 6, 9 and 12.
_base_ = './upernet.py'
patch_size = 28
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=patch_size)),
    backbone=dict(
        type='mmvittm.ViTTM',
        arch='base',
        memory_embed=dict(type='PatchTokens', patch_size=patch_size),
        process_embed=dict(type='PatchTokens', patch_size=patch_size),
        out_indices=(2, 5, 8, 11),
        out_stream='process',
        drop_path_rate=0.1,
        rw_drop_path_rate=0.1,
    ),
)
