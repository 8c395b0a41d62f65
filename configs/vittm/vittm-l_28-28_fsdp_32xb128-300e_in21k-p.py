# ViTTM-L, of which no process holds more than its share: parameters, gradients and optimizer state are spread over the
# GPUs (FSDP), block by block, and activations are computed again in the backward pass (docs/distributed.md). The
# authors trained no L; the recipe is that of S and B.
_base_ = './vittm-b_28-28_32xb128-300e_in21k-p.py'
model = dict(backbone=dict(arch='large'), head=dict(in_channels=1024))
runner_type = 'FlexibleRunner'
strategy = dict(
    type='mmvittm.FSDPStrategy',
    model_wrapper=dict(auto_wrap_policy='mmvittm.wrap_vittm_layers'),
    activation_checkpointing=dict(check_fn='mmvittm.is_vittm_layer'),
)
custom_hooks = []  # EMAHook would average each process's share under names that do not fit the whole
# Every process must run the model equally often, since all take part in each pass: samples are repeated, and the
# repeated ones are left out of the metrics.
val_dataloader = dict(sampler=dict(round_up=True))
test_dataloader = val_dataloader
