# ViTTM-T for whole scenes: 16-pixel memory patches, a fixed grid of process tokens, and a convolutional head that reads
# the memory maps of blocks 3, 6, 9 and 12. The cost is linear in the pixels.
_base_ = './segmentor.py'
memory_patch = 16
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=memory_patch)),
    backbone=dict(
        type='mmvittm.ViTTM',
        arch='tiny',
        memory_embed=dict(type='PatchTokens', patch_size=memory_patch),
        process_embed=dict(type='PooledTokens', grid=(14, 28)),
        out_indices=(2, 5, 8, 11),
        out_stream='memory',
    ),
    decode_head=dict(
        type='mmvittm.PixelShuffleHead',
        in_channels=[192, 192, 192, 192],
        in_index=[0, 1, 2, 3],
        channels=32,
        upscale=4,
        num_classes=6,
        dropout_ratio=0.0,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    ),
)
