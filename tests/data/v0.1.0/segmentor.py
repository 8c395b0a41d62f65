default_scope = 'mmseg'
custom_imports = dict(imports=['mmvittm'])
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', size=(24, 24)),
    backbone=dict(
        type='mmvittm.ViTTM',
        arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16),
        img_size=16,
        memory_embed=dict(type='PatchTokens', patch_size=4),
        process_embed=dict(type='PatchTokens', patch_size=8),
        rw_head=dict(type='CrossAttention'),
        memory_block=dict(type='MemoryConvNeXt', mlp_ratio=2),
        layer_scale_init_value=0.1,
        out_indices=(0, 1),
        out_stream=('memory', 'concat'),
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=[8, 16],
        in_index=[0, 1],
        input_transform='resize_concat',
        channels=4,
        num_convs=1,
        num_classes=3,
        norm_cfg=dict(type='BN'),
    ),
    test_cfg=dict(mode='whole'),
)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
