# ViTTM-T with memory patches of 16 pixels and 324 process tokens at any size, so the cost is linear in the pixels.
_base_ = './scene_pixel-shuffle.py'
memory_patch = 16
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=memory_patch)),
    backbone=dict(
        type='mmvittm.ViTTM',
        arch='tiny',
        img_size=512,
        memory_embed=dict(type='PatchTokens', patch_size=memory_patch),
        process_embed=dict(type='PooledTokens', grid=18),
        out_stream='memory',
    ),
)
