# The authors' fine-tuning of S (docs/recipe.md).
#
# 32 GPUs × 128 images = 4,096. Each GPU sees 1,281,167 / 32 = 40,037 images per epoch, which is 313 steps; 300 epochs
# are 93,900 steps and 384 million images, and the 3,000 steps of warm-up are 9.6 epochs. Other numbers of GPUs:
# in21k-p.py.
_base_ = ['../datasets/imagenet1k_224.py', '../schedules/adamw_300e.py']
# Taken over with `model = _base_.classifier` (in21k-p.py).
classifier = dict(
    # Starts from the averaged weights of the pretraining; each config names the checkpoint.
    # --cfg-options model.backbone.init_cfg=None trains from scratch.
    backbone=dict(drop_path_rate=0.1, init_cfg=dict(type='Pretrained', prefix='backbone.')),
    # Binary cross-entropy averaged over the 1,000 classes as in DeiT-III (mmpretrain sums it), without label smoothing,
    # which the authors' table does not list.
    head=dict(
        num_classes=_base_.num_classes, loss=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1 / 1000)
    ),
)
# Each batch uses one of the two with equal probability. The table only ticks CutMix; 1.0 is its usual alpha.
data_preprocessor = dict(batch_augments=dict(augments=[dict(type='Mixup', alpha=0.5), dict(type='CutMix', alpha=1.0)]))
optim_wrapper = dict(optimizer=dict(lr=1.75e-4, weight_decay=0.03))
# Both act at once: the warm-up scales the cosine.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6 / 1.75e-4, by_epoch=False, begin=0, end=3000),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=0, end=300, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=False, base_batch_size=4096)
