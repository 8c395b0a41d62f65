# Control: about as fast as ViTTM-B, by width instead of fewer tokens.
_base_ = './vit-b16_upernet_8xb2-160k_ade20k-512x512.py'
model = dict(
    backbone=dict(arch='deit-small'),
    neck=dict(embed_dim=384),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384),
)
