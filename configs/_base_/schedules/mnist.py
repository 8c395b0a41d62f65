# 30 epochs × 4,000 images / 32 = 3,750 steps, minutes on two cores. Evaluates the average of recent weights.
_base_ = '../hooks.py'
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys={'pos_embed': dict(decay_mult=0.0)}),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=0, end=30, convert_to_iter_based=True),
]
train_cfg = dict(type='mmvittm.ResumableEpochLoop', max_epochs=30, val_interval=5)
val_cfg = dict(type='mmvittm.CheckedValLoop')
test_cfg = dict(type='mmvittm.CheckedTestLoop')
default_hooks = dict(
    checkpoint=dict(interval=5, save_best='accuracy/top1'), visualization=dict(type='VisualizationHook')
)
custom_hooks = [dict(type='EMAHook', momentum=0.01)]
auto_scale_lr = dict(enable=False, base_batch_size=32)
