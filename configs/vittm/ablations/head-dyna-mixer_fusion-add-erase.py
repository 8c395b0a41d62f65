_base_ = './head-dyna-mixer_fusion-add.py'
model = dict(backbone=dict(fusion=dict(type='AddEraseFusion')))
