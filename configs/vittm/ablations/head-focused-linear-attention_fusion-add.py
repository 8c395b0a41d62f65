_base_ = './baseline.py'
model = dict(backbone=dict(rw_head=dict(_delete_=True, type='FocusedLinearAttention')))
