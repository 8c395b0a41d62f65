# One image per iteration; one cycle of the learning rate.
_base_ = './adamw_160k.py'
max_iters = 300
optim_wrapper = dict(optimizer=dict(lr=6e-4, weight_decay=0.05), clip_grad=dict(max_norm=1.0))
param_scheduler = [dict(type='OneCycleLR', eta_max=6e-4, total_steps=max_iters, pct_start=0.1, by_epoch=False)]
train_cfg = dict(max_iters=max_iters, val_interval=100)
# The last weights count: best ones would be chosen on the held-out tiles that are tested.
default_hooks = dict(checkpoint=dict(interval=100, save_best=None))
randomness = dict(seed=0)
auto_scale_lr = dict(base_batch_size=1)
