# With the head that looks closer, does it matter that the memory shows the image?
_base_ = './memory-learned.py'
model = dict(backbone=dict(rw_head=dict(_delete_=True, type='FocusedLinearAttention')))
