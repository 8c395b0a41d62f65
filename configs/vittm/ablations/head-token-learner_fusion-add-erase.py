_base_ = './head-token-learner_fusion-add.py'
model = dict(backbone=dict(fusion=dict(type='AddEraseFusion')))
