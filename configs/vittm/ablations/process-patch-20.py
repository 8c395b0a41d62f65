# 13 × 13 tokens; the last row and column of patches reach 4 pixels beyond the image, into zeros.
_base_ = './baseline.py'
model = dict(backbone=dict(process_embed=dict(patch_size=20)))
