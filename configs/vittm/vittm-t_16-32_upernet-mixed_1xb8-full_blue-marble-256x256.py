# One stream per level, which the paper does not try: the three fine levels of the pyramid from memory tokens, the
# coarse one from process tokens.
_base_ = './vittm-t_16-32_upernet_1xb8-full_blue-marble-256x256.py'
model = dict(backbone=dict(out_stream=('memory', 'memory', 'memory', 'process')))
