# 2 epochs, 782 steps: minutes on one core. The last weights are tested, without averaging.
_base_ = './cifar10.py'
max_epochs = 2
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = _base_.param_scheduler
param_scheduler[0].end = 80
param_scheduler[1].end = max_epochs
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=1, save_best=None))
custom_hooks = []
