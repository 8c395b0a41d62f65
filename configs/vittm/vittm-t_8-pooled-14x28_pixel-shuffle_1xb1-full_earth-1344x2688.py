# 56,448 memory tokens; in chunks, a training step peaks at 4.3 GB instead of 5.3 GB (one process, fp32).
_base_ = './vittm-t_16-pooled-14x28_pixel-shuffle_1xb1-demo_earth-1344x2688.py'
memory_patch, max_iters = 8, 600
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=memory_patch)),
    backbone=dict(memory_embed=dict(patch_size=memory_patch), memory_chunk=8064),
    decode_head=dict(upscale=2),
)
param_scheduler = _base_.param_scheduler
param_scheduler[0].total_steps = max_iters
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
