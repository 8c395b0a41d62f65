# 10 × 10 tokens; the last row and column of patches reach 24 pixels beyond the image, into zeros.
_base_ = './baseline.py'
model = dict(backbone=dict(process_embed=dict(patch_size=28)))
