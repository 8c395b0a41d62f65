# Head and fusion do not read the old tokens, so the process embedding gets no gradient.
_base_ = './baseline.py'
model = dict(backbone=dict(rw_head=dict(_delete_=True, type='DynaMixer'), fusion=dict(type='EraseFusion')))
find_unused_parameters = True
