# 2,000 iterations, with a learning rate for six blocks of width 96.
_base_ = './adamw_4k.py'
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = _base_.param_scheduler
param_scheduler[0].end = param_scheduler[1].begin = 200
param_scheduler[1].end = 2000
train_cfg = dict(max_iters=2000, val_interval=500)
default_hooks = dict(checkpoint=dict(interval=500))
