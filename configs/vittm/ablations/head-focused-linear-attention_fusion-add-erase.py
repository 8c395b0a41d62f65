_base_ = './head-focused-linear-attention_fusion-add.py'
model = dict(backbone=dict(fusion=dict(type='AddEraseFusion')))
