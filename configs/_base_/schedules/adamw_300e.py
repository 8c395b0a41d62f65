# Shared by the authors' three recipes, which add learning rate, weight decay and scheduler. EMAHook evaluates an
# exponential average of the weights (decay 0.999) and saves it as `state_dict`.
_base_ = '../hooks.py'
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', betas=(0.9, 0.999)),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={'pos_embed': dict(decay_mult=0.0), 'cls_token': dict(decay_mult=0.0)},
    ),
    clip_grad=dict(max_norm=1.0),
)
custom_hooks = [dict(type='EMAHook', momentum=1 - 0.999)]
train_cfg = dict(type='mmvittm.ResumableEpochLoop', max_epochs=300, val_interval=5)
val_cfg = dict(type='mmvittm.CheckedValLoop')
test_cfg = dict(type='mmvittm.CheckedTestLoop')
default_hooks = dict(
    logger=dict(interval=100),
    checkpoint=dict(interval=5, save_best='accuracy/top1'),
    visualization=dict(type='VisualizationHook'),
)
