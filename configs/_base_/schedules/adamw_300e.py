# What the authors' three recipes share; learning rates, weight decay and the scheduler are each recipe's own. The
# weights that are evaluated and saved as `state_dict` are the exponential average, of decay 0.999.
_base_ = '../hooks.py'
_base_ = '../hooks.py'
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', betas=(0.9, 0.999)),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys={'pos_embed': dict(decay_mult=0.0)}),
    clip_grad=dict(max_norm=1.0),
)
custom_hooks = [dict(type='EMAHook', momentum=1 - 0.999)]
train_cfg = dict(type='mmvittm.ResumableEpochLoop', max_epochs=300, val_interval=5)
val_cfg = dict(type='mmvittm.ReadableValLoop')
test_cfg = dict(type='mmvittm.ReadableTestLoop')
default_hooks = dict(
    logger=dict(interval=100),
    checkpoint=dict(interval=5, save_best='accuracy/top1'),
    visualization=dict(type='VisualizationHook'),
)
