# The control at about the cost of the ViTTM: patches of 36 pixels.
_base_ = './vit-6x96_20_pixel-shuffle_1xb1-windows_earth-2700x360.py'
patch_size = 36
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=patch_size)),
    backbone=dict(patch_size=patch_size, img_size=(27 * patch_size, patch_size)),
    decode_head=dict(upscale=6, fine_upscale=3),
)
