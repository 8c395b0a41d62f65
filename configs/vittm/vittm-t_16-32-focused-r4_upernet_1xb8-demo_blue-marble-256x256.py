# Focused linear attention of the width of the published heads, so at their cost.
_base_ = './vittm-t_16-32-focused_upernet_1xb8-demo_blue-marble-256x256.py'
model = dict(backbone=dict(rw_head=dict(latent_ratio=4)))
