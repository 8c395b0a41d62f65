_base_ = './vittm-6x96_16-pooled-8_pixel-shuffle_1xb4-2k_digit-scenes-512x512.py'
model = dict(backbone=dict(out_stream='concat'), decode_head=dict(in_channels=[192, 192, 192, 192]))
