# Head and fusion do not read the old tokens, so the process embedding gets no gradient.
_base_ = './head-dyna-mixer_fusion-add.py'
model = dict(backbone=dict(fusion=dict(type='EraseFusion')))
find_unused_parameters = True
