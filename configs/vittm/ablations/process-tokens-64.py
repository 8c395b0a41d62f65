# 8 × 8 tokens.
_base_ = './baseline.py'
model = dict(backbone=dict(process_embed=dict(patch_size=4)))
