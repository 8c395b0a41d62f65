# 4 × 4 memory tokens, the average of 8 × 8 process tokens: compare with process-tokens-64.
_base_ = './process-tokens-64.py'
model = dict(backbone=dict(memory_embed=dict(_delete_=True, type='PooledTokens', grid=4)))
