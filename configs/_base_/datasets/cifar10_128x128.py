# CIFAR-10 enlarged four times, with as many patches of 16 and 32 pixels as the small images have of 4 and 8. A first
# stage for models that segment.
_base_ = './cifar10.py'
# as the segmentors that start from these weights
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
resize = dict(type='Resize', scale=128)
train_pipeline = _base_.train_pipeline
train_pipeline.insert(-1, resize)
test_pipeline = [dict(type='LoadImageFromFile'), resize, dict(type='PackInputs')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
