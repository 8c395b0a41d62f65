# 64 memory and 64 process tokens for images of 32 × 32 pixels.
_base_ = './classifier_vittm.py'
model = dict(
    backbone=dict(arch='tiny', img_size=32, memory_embed=dict(patch_size=4), process_embed=dict(patch_size=4)),
    head=dict(num_classes=10, in_channels=192, cal_acc=True),
)
