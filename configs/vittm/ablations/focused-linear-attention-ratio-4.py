_base_ = './head-focused-linear-attention_fusion-add.py'
model = dict(backbone=dict(rw_head=dict(latent_ratio=4)))
