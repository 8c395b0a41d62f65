# ViTTM-L with FSDP: parameters, gradients and optimizer state are sharded over the GPUs block by block, and activations
# are recomputed in the backward pass (docs/distributed.md). The authors trained no L; the recipe is that of S and B.
_base_ = './vittm-b_28-28_32xb128-300e_in21k-p.py'
model = dict(backbone=dict(arch='large'), head=dict(in_channels=1024))
runner_type = 'FlexibleRunner'
strategy = dict(
    type='mmvittm.FSDPStrategy',
    model_wrapper=dict(auto_wrap_policy='mmvittm.wrap_vittm_layers'),
    activation_checkpointing=dict(check_fn='mmvittm.is_vittm_layer'),
)
custom_hooks = []  # EMAHook cannot average sharded parameters
# All processes take part in every forward pass, so each must run equally many: samples are repeated, and metrics leave
# the repeated ones out.
val_dataloader = dict(sampler=dict(round_up=True))
test_dataloader = val_dataloader
