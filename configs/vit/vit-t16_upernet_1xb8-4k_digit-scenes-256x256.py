_base_ = [
    '../_base_/models/upernet-tiny_vit-t16.py',
    '../_base_/datasets/digit_scenes.py',
    '../_base_/schedules/adamw_4k.py',
    '../_base_/default_runtime.py',
]
model = _base_.segmentor
auto_scale_lr = dict(base_batch_size=8)
