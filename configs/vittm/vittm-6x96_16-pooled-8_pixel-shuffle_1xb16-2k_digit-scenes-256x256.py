# A megapixel per iteration, as at the other sizes, of light digits on black: a small model begins to tell them apart in
# half an hour of a CPU core. A digit covers 4 to 7 patches a side.
_base_ = [
    '../_base_/models/pixel-shuffle_vittm-6x96.py',
    '../_base_/datasets/digit_scenes.py',
    '../_base_/schedules/adamw_2k.py',
    '../_base_/default_runtime.py',
]
memory_patch = 16
model = dict(
    data_preprocessor=dict(size=_base_.crop_size, test_cfg=dict(size_divisor=memory_patch)),
    backbone=dict(
        img_size=_base_.crop_size,
        memory_embed=dict(patch_size=memory_patch),
        process_embed=dict(_delete_=True, type='PooledTokens', grid=8),
    ),
    decode_head=dict(num_classes=11, channels=16, upscale=4, fine_upscale=1),
)
scenes = dict(plain=True, sizes=(64, 112))
train_dataloader = dict(batch_size=16, dataset=scenes)
val_dataloader = dict(dataset=dict(num_scenes=480, **scenes))
test_dataloader = val_dataloader
auto_scale_lr = dict(base_batch_size=16)
