_base_ = './baseline.py'
model = dict(
    backbone=dict(
        rw_head=dict(_delete_=True, type='LatentAttention', latent_ratio=4),
        fusion=dict(type='AddEraseFusion'),
    ),
)
