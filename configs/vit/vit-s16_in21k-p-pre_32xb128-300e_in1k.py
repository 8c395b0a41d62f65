_base_ = [
    '../_base_/models/classifier_vit-b16.py',
    '../_base_/recipes/in1k_small.py',
    '../_base_/default_runtime_classification.py',
]
model = _base_.classifier
model.backbone.arch = 'deit-small'
model.head.in_channels = 384
model.backbone.init_cfg.checkpoint = 'work_dirs/vit-s16_32xb128-300e_in21k-p/epoch_300.pth'
