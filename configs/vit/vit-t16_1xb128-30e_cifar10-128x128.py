_base_ = [
    '../_base_/models/classifier_vit-t_32x32.py',
    '../_base_/datasets/cifar10_128x128.py',
    '../_base_/schedules/cifar10.py',
    '../_base_/default_runtime_classification.py',
]
model = dict(backbone=dict(img_size=128, patch_size=16))
