_base_ = './baseline.py'
model = dict(backbone=dict(rw_head=dict(latent_ratio=1)))
