# 16 memory and 4 process tokens for images of 28 × 28 pixels.
_base_ = './classifier_vittm.py'
model = dict(
    backbone=dict(arch='tiny', img_size=28, memory_embed=dict(patch_size=7), process_embed=dict(patch_size=14)),
    head=dict(num_classes=10, in_channels=192, cal_acc=True),
)
