default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmvittm'])
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmvittm.ViTTM',
        arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16),
        img_size=16,
        memory_embed=dict(type='PatchTokens', patch_size=4),
        process_embed=dict(type='PatchTokens', patch_size=8),
        rw_head=dict(type='LinearAttention', latent_ratio=2),
        memory_block=dict(type='MemoryMLP', mlp_ratio=2),
        out_stream='tokens',
    ),
    head=dict(type='mmvittm.ViTTMClsHead', num_classes=3, in_channels=8, predict_from='mean'),
)
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.01))
