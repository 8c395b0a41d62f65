# Memory maps for the three fine levels of the pyramid, process maps for the coarse one; not in the paper.
_base_ = './vittm-t_16-32_upernet_1xb8-demo_blue-marble-256x256.py'
model = dict(backbone=dict(out_stream=('memory', 'memory', 'memory', 'process')))
