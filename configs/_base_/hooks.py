# For every training: checkpoints survive kills, stops and non-finite losses (docs/training.md).
default_hooks = dict(
    runtime_info=dict(type='mmvittm.MeanRuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # keeps the newest and the one before it
    checkpoint=dict(type='mmvittm.SafeCheckpointHook', max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    non_finite=dict(type='mmvittm.NonFiniteHook'),
    stop_on_signal=dict(type='mmvittm.StopOnSignalHook'),
)
