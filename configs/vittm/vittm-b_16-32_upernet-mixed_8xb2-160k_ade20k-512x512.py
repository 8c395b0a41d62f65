# Memory maps for the three fine levels of the pyramid, process maps for the coarse one; not in the paper.
_base_ = './vittm-b_16-32_upernet_8xb2-160k_ade20k-512x512.py'
model = dict(backbone=dict(out_stream=('memory', 'memory', 'memory', 'process')))
