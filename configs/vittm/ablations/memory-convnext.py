_base_ = './baseline.py'
model = dict(backbone=dict(memory_block=dict(type='MemoryConvNeXt')))
