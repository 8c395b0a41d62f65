# 160k iterations of 16 images (8 GPUs × 2), as in the authors' UperNet runs (docs/method.md): AdamW 6e-5, weight decay
# 0.01 but none on norms and position embeddings, 1500 steps of warm-up, then linear (poly of power 1) to 0.
_base_ = '../hooks.py'
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys={'pos_embed': dict(decay_mult=0.0)}),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=160000),
]
train_cfg = dict(type='mmvittm.ResumableIterLoop', max_iters=160000, val_interval=16000)
val_cfg = dict(type='mmvittm.CheckedValLoop')
test_cfg = dict(type='mmvittm.CheckedTestLoop')
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=16000, save_best='mIoU'),
    visualization=dict(type='SegVisualizationHook'),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
