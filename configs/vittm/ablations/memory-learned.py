# 8 × 8 learned memory tokens, the same for every image.
_base_ = './baseline.py'
model = dict(backbone=dict(memory_embed=dict(_delete_=True, type='LearnedTokens', grid=8)))
