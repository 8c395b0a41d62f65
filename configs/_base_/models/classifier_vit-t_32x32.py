# 64 tokens for images of 32 × 32 pixels.
_base_ = './classifier_vit-b16.py'
model = dict(
    backbone=dict(arch='deit-tiny', img_size=32, patch_size=4),
    head=dict(num_classes=10, in_channels=192, cal_acc=True),
)
