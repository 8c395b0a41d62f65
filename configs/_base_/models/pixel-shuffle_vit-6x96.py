# The control for scenes of the Earth: a ViT of the same width, depth and patches, which sees a window at a time.
_base_ = './pixel-shuffle_vittm-6x96.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.VisionTransformer',
        arch=_base_.model.backbone.arch,
        img_size=_base_.model.backbone.img_size,
        patch_size=_base_.memory_patch,
        out_indices=_base_.model.backbone.out_indices,
        out_type='featmap',
    ),
)
