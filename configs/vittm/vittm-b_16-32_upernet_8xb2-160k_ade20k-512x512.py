_base_ = [
    '../_base_/models/upernet_vittm-b.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/adamw_160k.py',
    '../_base_/default_runtime.py',
]
memory_patch, process_patch = 16, 32
model = dict(
    data_preprocessor=dict(size=_base_.crop_size, test_cfg=dict(size_divisor=process_patch)),
    backbone=dict(
        img_size=_base_.crop_size,
        memory_embed=dict(patch_size=memory_patch),
        process_embed=dict(patch_size=process_patch),
    ),
)
