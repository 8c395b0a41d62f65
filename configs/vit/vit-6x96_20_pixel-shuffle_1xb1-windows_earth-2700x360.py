# Trained and tested on windows of full height and 24 degrees, the windows that the ViTTM of the Earth has as regions.
# It sees the same pixels in training as the ViTTM with attention in regions.
_base_ = [
    '../_base_/models/pixel-shuffle_vit-6x96.py',
    '../_base_/datasets/blue_marble_scene.py',
    '../_base_/schedules/earth.py',
    '../_base_/default_runtime.py',
]
window_size = (2700, 360)
train_pipeline = _base_.train_pipeline
train_pipeline[2].update(crop_size=window_size)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
model = dict(
    data_preprocessor=dict(size=window_size),
    test_cfg=dict(_delete_=True, mode='slide', crop_size=window_size, stride=window_size),
)
