_base_ = './vittm-b_28-28_upernet_8xb2-160k_ade20k-504x504.py'
model = dict(
    backbone=dict(arch='small'),
    neck=dict(embed_dim=384),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384),
)
