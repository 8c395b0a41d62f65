# A window of the training is to the model what this part is within the whole Earth: reads, writes and attention stay
# within regions of 24 degrees.
_base_ = './vittm-6x96_20-cells-15_pixel-shuffle_1xb1-windows_earth-2700x5400.py'
window_size = (2700, 360)
train_pipeline = _base_.train_pipeline
train_pipeline[2].crop_size = window_size
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
model = dict(
    data_preprocessor=dict(size=window_size),
    backbone=dict(rw_region=(15, 2), global_attention=False),
)
