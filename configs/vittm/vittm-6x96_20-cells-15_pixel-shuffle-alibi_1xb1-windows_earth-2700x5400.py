# A model that is alike on windows and on the whole Earth: reads and writes stay within regions of 24 degrees, attention
# fades with distance. A window of the training is one region, a quarter of them three.
_base_ = './vittm-6x96_20-cells-15_pixel-shuffle_1xb1-windows_earth-2700x5400.py'
train_pipeline = _base_.train_pipeline
train_pipeline[2] = dict(
    type='RandomChoice',
    transforms=[[dict(train_pipeline[2], crop_size=(2700, width))] for width in (360, 1080)],
    prob=[0.75, 0.25],
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
model = dict(
    data_preprocessor=dict(size=None, size_divisor=_base_.memory_patch),
    backbone=dict(rw_region=(15, 2), alibi_slopes=(2.0, 1.0, 0.5)),
)
