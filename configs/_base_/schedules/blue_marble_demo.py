# AdamW with a warm-up and a cosine to 0, minutes on two cores.
_base_ = './adamw_160k.py'
optim_wrapper = dict(optimizer=dict(lr=5e-4, weight_decay=0.05), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.04, by_epoch=False, begin=0, end=75),
    dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, begin=75, end=300),
]
train_cfg = dict(max_iters=300, val_interval=300)
# The last weights count: best ones would be chosen on the held-out tiles that are tested.
default_hooks = dict(checkpoint=dict(interval=150, save_best=None))
randomness = dict(seed=0)
auto_scale_lr = dict(base_batch_size=8)
