# Control: about as fast as ViTTM-B, by width instead of fewer tokens.
_base_ = './vit-b16_segmenter_8xb2-160k_ade20k-512x512.py'
model = dict(
    backbone=dict(arch='deit-small'),
    decode_head=dict(in_channels=384, channels=384, embed_dims=384, num_heads=6),
)
