# UperNet with 64 channels on a backbone of width 192, for the six classes of Blue Marble.
_base_ = './upernet.py'
model = dict(
    neck=dict(embed_dim=192),
    decode_head=dict(in_channels=[192, 192, 192, 192], channels=64, num_classes=6),
    auxiliary_head=dict(in_channels=192, channels=64, num_classes=6),
)
