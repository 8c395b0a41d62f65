# Segmentor of scenes without a backbone: a convolutional head on the maps of blocks 3, 6, 9 and 12 makes logits of
# stride 4.
_base_ = './segmentor.py'
model = dict(
    backbone=dict(out_indices=(2, 5, 8, 11)),
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
    test_cfg=dict(crop_size=(512, 512), stride=(341, 341)),
)
