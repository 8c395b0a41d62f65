_base_ = [
    '../_base_/models/classifier_vittm.py',
    '../_base_/datasets/fashion_mnist.py',
    '../_base_/schedules/mnist.py',
    '../_base_/default_runtime_classification.py',
]
model = dict(
    backbone=dict(arch='tiny', img_size=28, memory_embed=dict(patch_size=7), process_embed=dict(patch_size=14)),
    head=dict(num_classes=10, in_channels=192, cal_acc=True),
)
