# In blocks 3, 6, 9 and 12, counted from 1.
_base_ = './baseline.py'
model = dict(backbone=dict(memory_block=[None, None, dict(type='MemoryMLP', mlp_ratio=4)] * 4))
