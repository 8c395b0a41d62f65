_base_ = [
    '../_base_/models/classifier_vittm-6x96_32x32.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cifar10_2e.py',
    '../_base_/default_runtime_classification.py',
]
model = dict(backbone=dict(process_embed=dict(patch_size=8)))
