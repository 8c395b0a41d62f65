# Base config: the published components, 256 memory and 64 process tokens. Each ablation overrides one setting.
_base_ = '../vittm-t_16-32_upernet_1xb8-demo_blue-marble-256x256.py'
model = dict(
    backbone=dict(rw_head=dict(type='LinearAttention', latent_ratio=4), fusion=dict(type='AddFusion')),
    # TokenLearner, DynaMixer and AddEraseFusion are built for a fixed number of tokens, so test tiles of 512 × 512
    # pixels are predicted in 3 × 3 overlapping windows of the training size.
    test_cfg=dict(_delete_=True, mode='slide', crop_size=_base_.crop_size, stride=(128, 128)),
)
default_hooks = dict(logger=dict(interval=10))
custom_hooks = []  # no progress bar: tools/study.py shows its own
