# 4 × 4 tokens, as in the baseline.
_base_ = './baseline.py'
model = dict(backbone=dict(process_embed=dict(_delete_=True, type='LearnedTokens', grid=4)))
