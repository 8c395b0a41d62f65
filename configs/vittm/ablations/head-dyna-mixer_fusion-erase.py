# 126 M weights in the generators of the heads, at 256 + 64 tokens.
_base_ = './baseline.py'
model = dict(backbone=dict(rw_head=dict(_delete_=True, type='DynaMixer'), fusion=dict(type='EraseFusion')))
