_base_ = [
    '../_base_/models/classifier_vittm-t_32x32.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cifar10.py',
    '../_base_/default_runtime_classification.py',
]
