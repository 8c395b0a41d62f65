# Cross attention in the read and write heads, of quadratic cost.
_base_ = './vittm-t_16-32_upernet_1xb8-demo_blue-marble-256x256.py'
model = dict(backbone=dict(rw_head=dict(type='CrossAttention')))
