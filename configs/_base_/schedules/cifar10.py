# 30 epochs × 50,000 images / 128 = 11,730 steps. Evaluates the average of recent weights.
_base_ = './mnist.py'
param_scheduler = _base_.param_scheduler
param_scheduler[0].end = 1000
auto_scale_lr = dict(base_batch_size=128)
