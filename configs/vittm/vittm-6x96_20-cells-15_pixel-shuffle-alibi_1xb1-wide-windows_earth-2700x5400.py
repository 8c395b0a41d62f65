# Windows of one, three and five regions; not shown to be better than one and three (docs/high-resolution.md).
_base_ = './vittm-6x96_20-cells-15_pixel-shuffle-alibi_1xb1-windows_earth-2700x5400.py'
train_pipeline = _base_.train_pipeline
train_pipeline[2] = dict(
    type='RandomChoice',
    transforms=[[dict(type='RandomCrop', crop_size=(2700, width), cat_max_ratio=0.75)] for width in (360, 1080, 1800)],
    prob=[0.6, 0.25, 0.15],
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
