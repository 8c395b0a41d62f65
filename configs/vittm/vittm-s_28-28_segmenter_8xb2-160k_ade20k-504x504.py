_base_ = './vittm-b_28-28_segmenter_8xb2-160k_ade20k-504x504.py'
model = dict(
    backbone=dict(arch='small'),
    decode_head=dict(in_channels=2 * 384, channels=384, embed_dims=384, num_heads=6),
)
