# A small ViTTM for scenes of the Earth, 6 blocks of width 96: there is one image to learn from. A process token
# averages 12 degrees. A convolutional head reads the memory after four blocks. The cost is linear in the pixels.
_base_ = './scene_pixel-shuffle.py'
memory_patch = 20
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=memory_patch)),
    backbone=dict(
        type='mmvittm.ViTTM',
        arch=dict(embed_dims=96, num_layers=6, num_heads=3, feedforward_channels=384),
        # The position embedding has one column, so it encodes the latitude alone, and 27 rows, resampled to those of
        # the image, so that neighbouring latitudes learn together.
        img_size=(27 * memory_patch, memory_patch),
        memory_embed=dict(type='PatchTokens', patch_size=memory_patch),
        process_embed=dict(type='PooledCells', rows=15),
        out_indices=(0, 2, 3, 5),
        out_stream='memory',
    ),
    decode_head=dict(
        in_channels=[96, 96, 96, 96],
        token_channels=96,
        pixel_channels=16,
        channels=8,
        upscale=5,
        fine_upscale=2,
    ),
    test_cfg=dict(_delete_=True, mode='whole'),
)
