# One window per iteration, a short warm-up, then half a cosine. The position embedding starts near zero and latitude
# separates the climates, so it learns faster.
_base_ = './adamw_160k.py'
max_iters, warmup = 2700, 270
optim_wrapper = dict(
    optimizer=dict(lr=3e-3, betas=(0.9, 0.98), weight_decay=0.05),
    paramwise_cfg=dict(bias_decay_mult=0.0, custom_keys={'pos_embed': dict(lr_mult=4.0)}),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.04, by_epoch=False, begin=0, end=warmup),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=warmup, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
# The last weights count: best ones would be chosen on the held-out tiles that are tested.
default_hooks = dict(checkpoint=dict(interval=900, save_best=None))
randomness = dict(seed=0)
auto_scale_lr = dict(base_batch_size=1)
