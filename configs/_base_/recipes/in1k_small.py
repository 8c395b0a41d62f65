# The authors' fine-tuning of S: every value of their table (docs/recipe.md).
#
# 32 GPUs × 128 images = 4,096. Each GPU sees 1,281,167 / 32 = 40,037 images in an epoch: 313 steps, so that 300 epochs
# are 93,900 steps and 384 million images, and the 3,000 steps of warm-up 9.6 epochs. Other numbers of GPUs: in21k-p.py.
_base_ = ['../datasets/imagenet1k_224.py', '../schedules/adamw_300e.py']
drop_path_rate = 0.1
# Binary cross-entropy over the 1,000 classes, averaged as in DeiT-III's recipe (mmpretrain sums it), without label
# smoothing, which the table does not name.
loss = dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1 / 1000)
# Each batch is mixed by one of the two, drawn evenly. The table ticks cutmix: 1.0 is its usual alpha.
data_preprocessor = dict(batch_augments=dict(augments=[dict(type='Mixup', alpha=0.5), dict(type='CutMix', alpha=1.0)]))
optim_wrapper = dict(optimizer=dict(lr=1.75e-4, weight_decay=0.03))
# Both at once: the warm-up multiplies what the cosine gives.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6 / 1.75e-4, by_epoch=False, begin=0, end=3000),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=0, end=300, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=False, base_batch_size=4096)
