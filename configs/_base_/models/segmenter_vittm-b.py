# Segmenter on the last block's memory and process maps, concatenated to 2 × 768 channels.
_base_ = './segmenter.py'
patch_size = 28
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=patch_size)),
    backbone=dict(
        type='mmvittm.ViTTM',
        arch='base',
        memory_embed=dict(type='PatchTokens', patch_size=patch_size),
        process_embed=dict(type='PatchTokens', patch_size=patch_size),
        out_stream='concat',
        drop_path_rate=0.1,
        rw_drop_path_rate=0.1,
    ),
    decode_head=dict(in_channels=2 * 768),
)
