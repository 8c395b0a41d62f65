_base_ = './vit-b16_32xb128-300e_in21k-p.py'
model = dict(backbone=dict(arch='deit-small'), head=dict(in_channels=384))
