# Trained and tested on windows of full height and 24 degrees, the windows that the ViTTM of the Earth has as regions.
_base_ = [
    '../_base_/models/pixel-shuffle_vit-6x96.py',
    '../_base_/datasets/blue_marble_scene.py',
    '../_base_/schedules/earth.py',
    '../_base_/default_runtime.py',
]
train_pipeline = _base_.train_pipeline
train_pipeline[2].update(crop_size=_base_.window)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
model = dict(data_preprocessor=dict(size=_base_.window))
