# The head reads memory maps, and the process tokens of the last block beside them.
_base_ = './vittm-6x96_20-cells-15_pixel-shuffle-regions_1xb1-windows_earth-2700x5400.py'
model = dict(
    backbone=dict(out_stream=('memory', 'memory', 'memory', 'concat')),
    decode_head=dict(in_channels=[96, 96, 96, 192]),
)
