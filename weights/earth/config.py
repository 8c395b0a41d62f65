# The config that trained the weights; README.md has their score.
_base_ = '../../configs/vittm/vittm-6x96_20-cells-15_pixel-shuffle-regions-concat_1xb1-windows_earth-2700x5400.py'
