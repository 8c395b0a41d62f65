_base_ = [
    '../_base_/models/upernet-tiny_vittm-t.py',
    '../_base_/datasets/blue_marble.py',
    '../_base_/schedules/blue_marble_full.py',
    '../_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(size=_base_.crop_size), backbone=dict(img_size=_base_.crop_size, drop_path_rate=0.1)
)
