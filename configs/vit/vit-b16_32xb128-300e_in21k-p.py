_base_ = [
    '../_base_/models/classifier_vit-b16.py',
    '../_base_/recipes/in21k-p.py',
    '../_base_/default_runtime_classification.py',
]
model = _base_.classifier
