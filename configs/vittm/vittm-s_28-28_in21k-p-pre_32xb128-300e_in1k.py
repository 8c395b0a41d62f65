_base_ = [
    '../_base_/models/classifier_vittm.py',
    '../_base_/recipes/in1k_small.py',
    '../_base_/default_runtime_classification.py',
]
model = _base_.classifier
model.backbone.arch = 'small'
model.head.in_channels = 384
model.backbone.init_cfg.checkpoint = 'work_dirs/vittm-s_28-28_32xb128-300e_in21k-p/epoch_300.pth'
