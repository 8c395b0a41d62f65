# Memory and process maps, concatenated to 2 × 192 channels.
_base_ = './vittm-t_16-32_upernet_1xb8-demo_blue-marble-256x256.py'
model = dict(
    backbone=dict(out_stream='concat'),
    neck=dict(embed_dim=384),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384),
)
