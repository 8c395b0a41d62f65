_base_ = './vittm-6x96_16-pooled-8_pixel-shuffle_1xb1-2k_digit-scenes-1024x1024.py'
model = dict(backbone=dict(process_embed=dict(grid=16)))
