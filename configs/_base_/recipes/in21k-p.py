# The authors' pretraining of S and B (docs/recipe.md).
#
# 32 GPUs × 128 images = 4,096. Each GPU sees 11,060,223 / 32 = 345,632 images per epoch, which is 2,701 steps; 300
# epochs are 810,300 steps and 3.3 billion images, and the 10,000 steps of warm-up are 3.7 epochs. On n GPUs, set
# train_dataloader.batch_size to 4096 / n; or keep 128 and accumulate 32 / n batches with
# optim_wrapper.accumulative_counts (schedulers count batches, so the warm-up needs as many more); or scale the learning
# rate to the batch with auto_scale_lr.enable=True.
_base_ = ['../datasets/imagenet21k-p_224.py', '../schedules/adamw_300e.py']
# Two bases of a config must not both set `model`, so each config takes these settings over with
# `model = _base_.classifier`.
classifier = dict(
    backbone=dict(drop_path_rate=0.0),
    # without label smoothing, which the authors' table does not list
    head=dict(num_classes=_base_.num_classes, loss=dict(type='CrossEntropyLoss')),
)
data_preprocessor = dict(batch_augments=dict(augments=[dict(type='Mixup', alpha=0.5)]))
optim_wrapper = dict(optimizer=dict(lr=1.5e-4, weight_decay=0.03))
# Both act at once: the warm-up scales the cosine.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6 / 1.5e-4, by_epoch=False, begin=0, end=10000),
    dict(type='CosineAnnealingLR', eta_min=1e-7, by_epoch=True, begin=0, end=300, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=False, base_batch_size=4096)
