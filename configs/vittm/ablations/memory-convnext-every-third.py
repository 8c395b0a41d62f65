# In blocks 3 and 6, counted from 1.
_base_ = './baseline.py'
model = dict(backbone=dict(memory_block=[None, None, dict(type='MemoryConvNeXt')] * 2))
