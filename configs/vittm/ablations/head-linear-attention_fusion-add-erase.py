_base_ = './baseline.py'
model = dict(backbone=dict(fusion=dict(type='AddEraseFusion')))
