# The last block's process and memory maps, concatenated: 2 × 768 channels.
_base_ = './segmenter.py'
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=28)),
    backbone=dict(
        type='mmvittm.ViTTM',
        arch='base',
        memory_embed=dict(type='PatchTokens', patch_size=28),
        process_embed=dict(type='PatchTokens', patch_size=28),
        out_stream='concat',
        drop_path_rate=0.1,
        rw_drop_path_rate=0.1,
    ),
    decode_head=dict(in_channels=2 * 768),
)
