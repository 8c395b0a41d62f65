# Focused linear attention in the read and write heads; not in the paper.
_base_ = './vittm-t_16-32_upernet_1xb8-demo_blue-marble-256x256.py'
model = dict(backbone=dict(rw_head=dict(type='FocusedLinearAttention')))
