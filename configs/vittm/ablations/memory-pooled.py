# 8 × 8 memory tokens, the average of 16 × 16 process tokens: compare with process-patch-16.
_base_ = './process-patch-16.py'
model = dict(backbone=dict(memory_embed=dict(_delete_=True, type='PooledTokens', grid=8)))
