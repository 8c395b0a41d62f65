_base_ = './baseline.py'
model = dict(backbone=dict(stream_norms=False))
