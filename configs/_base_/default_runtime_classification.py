# Runtime settings for mmpretrain; the base is for mmsegmentation.
_base_ = './default_runtime.py'
default_scope = 'mmpretrain'
visualizer = dict(type='UniversalVisualizer')
log_processor = dict(by_epoch=True)
tta_model = dict(type='mmvittm.AverageStreamScoreTTA')
