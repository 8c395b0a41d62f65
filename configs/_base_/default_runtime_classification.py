# What mmpretrain needs where mmsegmentation needs something else.
_base_ = './default_runtime.py'
default_scope = 'mmpretrain'
visualizer = dict(type='UniversalVisualizer')
log_processor = dict(by_epoch=True)
tta_model = dict(type='AverageClsScoreTTA')
