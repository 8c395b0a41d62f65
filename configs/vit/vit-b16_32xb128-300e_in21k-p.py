_base_ = [
    '../_base_/models/classifier_vit-b16.py',
    '../_base_/recipes/in21k-p.py',
    '../_base_/default_runtime_classification.py',
]
model = dict(
    backbone=dict(drop_path_rate=_base_.drop_path_rate),
    head=dict(num_classes=_base_.num_classes, loss=_base_.loss),
)
