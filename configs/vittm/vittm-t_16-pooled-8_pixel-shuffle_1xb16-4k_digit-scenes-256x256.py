# A megapixel per iteration, as at the other sizes.
_base_ = [
    '../_base_/models/scene_vittm-t.py',
    '../_base_/datasets/digit_scenes.py',
    '../_base_/schedules/adamw_4k.py',
    '../_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(img_size=_base_.crop_size, process_embed=dict(grid=8)),
    decode_head=dict(num_classes=11),
)
train_dataloader = dict(batch_size=16)
val_dataloader = dict(dataset=dict(num_scenes=480))
test_dataloader = val_dataloader
auto_scale_lr = dict(base_batch_size=16)
