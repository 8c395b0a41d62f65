# 10 × 10 tokens; the image is padded with 24 pixels of zeros.
_base_ = './baseline.py'
model = dict(backbone=dict(process_embed=dict(patch_size=28)))
