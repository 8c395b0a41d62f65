# The authors' Segmenter runs used SGD at 5e-4 to 5e-3 without weight decay, poly decay of power 0.9, 160k to 480k
# iterations and stochastic weight averaging. This is the shortest schedule; weights are averaged over its last quarter.
_base_ = './adamw_160k.py'
optim_wrapper = dict(
    _delete_=True, type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=0.0)
)
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, by_epoch=False, begin=0, end=160000)]
custom_hooks = [dict(type='EMAHook', ema_type='StochasticWeightAverage', begin_iter=120000)]
