_base_ = './head-latent-cross-attention_fusion-add.py'
model = dict(backbone=dict(fusion=dict(type='EraseFusion')))
