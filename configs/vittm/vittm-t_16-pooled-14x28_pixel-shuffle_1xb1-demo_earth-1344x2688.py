_base_ = [
    '../_base_/models/pixel-shuffle_vittm-t.py',
    '../_base_/datasets/blue_marble_scene.py',
    '../_base_/schedules/earth.py',
    '../_base_/default_runtime.py',
]
model = dict(data_preprocessor=dict(size=_base_.crop_size), backbone=dict(img_size=_base_.crop_size))
