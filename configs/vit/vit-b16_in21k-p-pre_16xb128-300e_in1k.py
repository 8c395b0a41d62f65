_base_ = [
    '../_base_/models/classifier_vit-b16.py',
    '../_base_/recipes/in1k_base.py',
    '../_base_/default_runtime_classification.py',
]
model = dict(
    backbone=dict(
        drop_path_rate=_base_.drop_path_rate,
        # the averaged weights of the pretraining; --cfg-options model.backbone.init_cfg=None trains from scratch
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/vit-b16_32xb128-300e_in21k-p/epoch_300.pth',
            prefix='backbone.',
        ),
    ),
    head=dict(num_classes=_base_.num_classes, loss=_base_.loss),
)
