# A multiple of the 28-pixel patches.
_base_ = './ade20k_512x512.py'
crop_size = (504, 504)
train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = (2048, 504)  # RandomResize
train_pipeline[3].crop_size = crop_size  # RandomCrop
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = (2048, 504)  # Resize
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
