# 16 × 8 tokens.
_base_ = './baseline.py'
model = dict(backbone=dict(memory_embed=dict(patch_size=(2, 4))))
