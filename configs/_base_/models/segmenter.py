# Segmenter's mask transformer on one feature map of 768 channels.
_base_ = './segmentor.py'
model = dict(
    decode_head=dict(
        type='SegmenterMaskTransformerHead',
        in_channels=768,
        channels=768,
        embed_dims=768,
        num_layers=2,
        num_heads=12,
        num_classes=150,
        dropout_ratio=0.0,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
