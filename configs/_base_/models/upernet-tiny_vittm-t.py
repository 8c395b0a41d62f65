# ViTTM-T with 16-pixel memory and 32-pixel process patches; UperNet reads the process maps of blocks 3, 6, 9 and 12.
_base_ = './upernet-tiny.py'
memory_patch, process_patch = 16, 32
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=process_patch)),
    backbone=dict(
        type='mmvittm.ViTTM',
        arch='tiny',
        memory_embed=dict(type='PatchTokens', patch_size=memory_patch),
        process_embed=dict(type='PatchTokens', patch_size=process_patch),
        out_indices=(2, 5, 8, 11),
        out_stream='process',
    ),
)
