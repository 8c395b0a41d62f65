_base_ = './head-latent-attention_fusion-add.py'
model = dict(backbone=dict(fusion=dict(type='EraseFusion')))
