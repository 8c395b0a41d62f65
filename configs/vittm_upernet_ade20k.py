# The entry point: ViTTM-B with UperNet on ADE20K. Its siblings and the baselines are in vittm/ and vit/.
# Start from pretrained weights with --cfg-options model.backbone.init_cfg.type=Pretrained
# model.backbone.init_cfg.checkpoint=FILE, and model.backbone.init_cfg.prefix=backbone. if FILE is a classifier's.
_base_ = './vittm/vittm-b_28-28_upernet_8xb2-160k_ade20k-504x504.py'
