# What every ablation changes one thing of: the published parts, 256 memory and 64 process tokens, 400 iterations.
_base_ = '../vittm-t_16-32_upernet_1xb8-demo_blue-marble-256x256.py'
model = dict(
    backbone=dict(rw_head=dict(type='LinearAttention', latent_ratio=4), fusion=dict(type='AddFusion')),
    # TokenLearner, DynaMixer and AddEraseFusion are built for a fixed number of tokens, but tiles of 512 × 512 pixels
    # are tested and crops of 256 × 256 trained on. So all ablations are tested in windows of the training size, 3 × 3
    # overlapping ones per tile: every model sees the number of tokens that it was trained on, at the usual test scale.
    test_cfg=dict(_delete_=True, mode='slide', crop_size=_base_.crop_size, stride=(128, 128)),
)
randomness = dict(seed=0)
train_cfg = dict(val_interval=100)
default_hooks = dict(
    logger=dict(interval=10),
    # The last weights are compared, not the best on the validation tiles, which are the test tiles too. Two are kept,
    # as the oldest is removed before the next is written and a stop in between would leave none to resume from.
    checkpoint=dict(interval=100, save_best=None, max_keep_ckpts=2),
)
custom_hooks = []  # no progress bar: tools/ablate.py shows its own
