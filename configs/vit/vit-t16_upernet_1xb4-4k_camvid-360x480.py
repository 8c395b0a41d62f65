_base_ = [
    '../_base_/models/upernet-tiny_vit-t16.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/adamw_4k.py',
    '../_base_/default_runtime.py',
]
model = _base_.segmentor
