# Focused linear attention of the width of the published heads, so at their cost; not in the paper.
_base_ = './vittm-t_16-32_upernet-mixed_1xb4-4k_camvid-360x480.py'
model = dict(backbone=dict(rw_head=dict(type='FocusedLinearAttention', latent_ratio=4)))
