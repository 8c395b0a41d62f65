_base_ = [
    '../_base_/models/classifier_vittm.py',
    '../_base_/recipes/in1k_base.py',
    '../_base_/default_runtime_classification.py',
]
model = _base_.classifier
model.backbone.init_cfg.checkpoint = 'work_dirs/vittm-b_28-28_32xb128-300e_in21k-p/epoch_300.pth'
