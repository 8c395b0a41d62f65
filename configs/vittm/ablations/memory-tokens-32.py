# 8 × 4 tokens.
_base_ = './baseline.py'
model = dict(backbone=dict(memory_embed=dict(patch_size=(4, 8))))
