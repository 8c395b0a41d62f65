# 4,000 iterations; 44 epochs of CamVid at 4 images each.
_base_ = './blue_marble_demo.py'
param_scheduler = _base_.param_scheduler
param_scheduler[0].end = param_scheduler[1].begin = 400
param_scheduler[1].end = 4000
train_cfg = dict(max_iters=4000, val_interval=1000)
default_hooks = dict(checkpoint=dict(interval=1000))
auto_scale_lr = dict(base_batch_size=4)
