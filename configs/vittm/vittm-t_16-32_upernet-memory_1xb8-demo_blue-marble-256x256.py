# Memory maps for all levels of the pyramid.
_base_ = './vittm-t_16-32_upernet_1xb8-demo_blue-marble-256x256.py'
model = dict(backbone=dict(out_stream='memory'))
