_base_ = './vittm-b_28-28_32xb128-300e_in21k-p.py'
model = dict(backbone=dict(arch='small'), head=dict(in_channels=384))
