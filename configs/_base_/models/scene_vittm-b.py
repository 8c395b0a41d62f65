_base_ = './scene_vittm-t.py'
memory_patch = 28
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=memory_patch)),
    backbone=dict(arch='base', memory_embed=dict(patch_size=memory_patch)),
    decode_head=dict(in_channels=[768, 768, 768, 768], upscale=7),
)
