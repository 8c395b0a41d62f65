# A small ViTTM for images of 32 × 32 pixels, 6 blocks of width 96; 64 memory and 64 process tokens.
_base_ = './classifier_vittm-t_32x32.py'
arch = dict(_delete_=True, embed_dims=96, num_layers=6, num_heads=3, feedforward_channels=384)
model = dict(backbone=dict(arch=arch), head=dict(in_channels=96))
