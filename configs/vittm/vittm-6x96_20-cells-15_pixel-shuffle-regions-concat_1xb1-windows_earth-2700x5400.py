# The head reads the process tokens of each block too, resampled to the memory grid.
_base_ = './vittm-6x96_20-cells-15_pixel-shuffle-regions_1xb1-windows_earth-2700x5400.py'
model = dict(backbone=dict(out_stream='concat'), decode_head=dict(in_channels=[192, 192, 192, 192]))
