# As many steps as on MNIST: 4 epochs × 60,000 images / 64 = 3,752.
_base_ = [
    '../_base_/models/classifier_vittm-t_28x28.py',
    '../_base_/datasets/fashion_mnist.py',
    '../_base_/schedules/mnist.py',
    '../_base_/default_runtime_classification.py',
]
train_dataloader = dict(batch_size=64)
param_scheduler = _base_.param_scheduler
param_scheduler[1].end = 4
train_cfg = dict(max_epochs=4, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=1))
auto_scale_lr = dict(base_batch_size=64)
