# A last stage on windows of two, three and five regions, from trained weights: --cfg-options load_from=CHECKPOINT
_base_ = './vittm-6x96_20-cells-15_pixel-shuffle-alibi_1xb1-windows_earth-2700x5400.py'
train_pipeline = _base_.train_pipeline
train_pipeline[2] = dict(
    type='RandomChoice',
    transforms=[[dict(type='RandomCrop', crop_size=(2700, width), cat_max_ratio=0.75)] for width in (720, 1080, 1800)],
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=3e-4))
param_scheduler = [dict(type='CosineAnnealingLR', eta_min=0.0, by_epoch=False, end=200)]
train_cfg = dict(max_iters=200, val_interval=200)
