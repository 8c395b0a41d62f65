# The authors' pretraining, of S and B alike: every value of their table (docs/recipe.md).
#
# 32 GPUs × 128 images = 4,096. Each GPU sees 11,060,223 / 32 = 345,632 images in an epoch: 2,701 steps, so that 300
# epochs are 810,300 steps and 3.3 billion images, and the 10,000 steps of warm-up 3.7 epochs. On n GPUs set
# train_dataloader.batch_size to 4096 / n, or leave it at 128 and accumulate 32 / n batches
# (optim_wrapper.accumulative_counts; schedulers count batches, so the warm-up's end grows by as much), or let
# auto_scale_lr.enable=True scale the learning rate to the batch there is.
_base_ = ['../datasets/imagenet21k-p_224.py', '../schedules/adamw_300e.py']
drop_path_rate = 0.0
loss = dict(type='CrossEntropyLoss')  # without label smoothing, which the table does not name
data_preprocessor = dict(batch_augments=dict(augments=[dict(type='Mixup', alpha=0.5)]))
optim_wrapper = dict(optimizer=dict(lr=1.5e-4, weight_decay=0.03))
# Both at once: the warm-up multiplies what the cosine gives.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6 / 1.5e-4, by_epoch=False, begin=0, end=10000),
    dict(type='CosineAnnealingLR', eta_min=1e-7, by_epoch=True, begin=0, end=300, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=False, base_batch_size=4096)
