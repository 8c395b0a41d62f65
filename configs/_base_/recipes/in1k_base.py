# The authors' fine-tuning of B: only what differs from S.
#
# 16 GPUs × 128 images = 2,048. Each GPU sees 1,281,167 / 16 = 80,073 images per epoch, which is 626 steps; 300 epochs
# are 187,800 steps and 385 million images, and the 3,000 steps of warm-up are 4.8 epochs. Other numbers of GPUs:
# in21k-p.py.
_base_ = './in1k_small.py'
classifier = dict(backbone=dict(drop_path_rate=0.2))
data_preprocessor = dict(batch_augments=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]))
train_pipeline = _base_.train_pipeline
train_pipeline[3].num_policies = 3  # RandAugment
train_pipeline[3].magnitude_level = 20
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=2.5e-5, weight_decay=0.1))
param_scheduler = _base_.param_scheduler
param_scheduler[0].start_factor = 1e-6 / 2.5e-5
param_scheduler[1].eta_min = 1e-7
auto_scale_lr = dict(base_batch_size=2048)
