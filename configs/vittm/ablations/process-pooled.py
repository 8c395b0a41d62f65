# 4 × 4 tokens, the average of the memory tokens.
_base_ = './baseline.py'
model = dict(backbone=dict(process_embed=dict(_delete_=True, type='PooledTokens', grid=4)))
