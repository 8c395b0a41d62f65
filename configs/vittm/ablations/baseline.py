# Base config: the published components, 64 memory and 16 process tokens. Each ablation overrides one setting.
_base_ = '../vittm-6x96_4-8_1xb128-2e_cifar10.py'
model = dict(backbone=dict(rw_head=dict(type='LinearAttention', latent_ratio=4), fusion=dict(type='AddFusion')))
