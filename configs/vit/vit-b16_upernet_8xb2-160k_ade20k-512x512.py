_base_ = [
    '../_base_/models/upernet_vit-b16.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/adamw_160k.py',
    '../_base_/default_runtime.py',
]
model = dict(data_preprocessor=dict(size=_base_.crop_size), backbone=dict(img_size=_base_.crop_size))
