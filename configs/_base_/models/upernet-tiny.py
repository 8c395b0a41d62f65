# UperNet with 64 channels on a backbone of width 192, for the six classes of Blue Marble.
_base_ = './upernet.py'
# PyTorch's default initialisation. mmseg's own (normal for the classifier, Kaiming with fan-out for the convolutions)
# costs 8 to 11 points of mIoU in trainings of 300 iterations (docs/study.md).
init_cfg = dict(
    type='Kaiming',
    layer=['Conv2d', 'Linear'],
    a=5**0.5,
    mode='fan_in',
    nonlinearity='leaky_relu',
    distribution='uniform',
)
model = dict(
    neck=dict(embed_dim=192),
    decode_head=dict(in_channels=[192, 192, 192, 192], channels=64, num_classes=6, init_cfg=init_cfg),
    auxiliary_head=dict(in_channels=192, channels=64, num_classes=6, init_cfg=init_cfg),
)
