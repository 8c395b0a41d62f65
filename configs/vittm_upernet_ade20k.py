# Entry point: ViTTM-B with UperNet on ADE20K. vittm/ holds the other ViTTM configs, vit/ the baselines.
# To start from pretrained weights, pass --cfg-options model.backbone.init_cfg.type=Pretrained
# model.backbone.init_cfg.checkpoint=FILE, and model.backbone.init_cfg.prefix=backbone. if FILE is a classifier.
_base_ = './vittm/vittm-b_28-28_upernet_8xb2-160k_ade20k-504x504.py'
