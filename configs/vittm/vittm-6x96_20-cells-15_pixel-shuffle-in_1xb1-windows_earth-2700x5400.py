# The backbone sees the whole Earth in one pass; the head decodes it in windows of 20 degrees, as wide as those of the
# training, and normalizes each by itself. Trains to the same weights as with batch norm, which needs the scene's means.
_base_ = './vittm-6x96_20-cells-15_pixel-shuffle_1xb1-windows_earth-2700x5400.py'
model = dict(decode_head=dict(norm_cfg=dict(_delete_=True, type='IN', affine=True), window=15))
custom_hooks = []
