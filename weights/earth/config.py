auto_scale_lr = dict(base_batch_size=1, enable=False)
crop_size = (
    2700,
    5400,
)
custom_hooks = [
    dict(interval=900, type='mmvittm.SceneStatisticsHook'),
]
custom_imports = dict(
    allow_failed_imports=False, imports=[
        'mmvittm',
    ])
data_help = 'make it with `python tools/dataset_converters/blue_marble_scene.py` (it needs `pip install "mmvittm[demo]"`)'
data_root = 'data/blue_marble_scene'
dataset_type = 'mmvittm.BlueMarbleDataset'
default_hooks = dict(
    checkpoint=dict(
        by_epoch=False,
        interval=900,
        max_keep_ckpts=2,
        save_best=None,
        type='mmvittm.SafeCheckpointHook'),
    logger=dict(interval=50, log_metric_by_epoch=False, type='LoggerHook'),
    non_finite=dict(type='mmvittm.NonFiniteHook'),
    param_scheduler=dict(type='ParamSchedulerHook'),
    runtime_info=dict(type='mmvittm.MeanRuntimeInfoHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    stop_on_signal=dict(type='mmvittm.StopOnSignalHook'),
    timer=dict(type='IterTimerHook'),
    visualization=dict(type='SegVisualizationHook'))
default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True,
    dist_cfg=dict(backend='nccl', timeout=600),
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
fold = '2'
load_from = None
log_level = 'INFO'
log_processor = dict(by_epoch=False)
max_iters = 2700
memory_patch = 20
model = dict(
    backbone=dict(
        arch=dict(
            embed_dims=96, feedforward_channels=384, num_heads=3,
            num_layers=6),
        img_size=(
            540,
            20,
        ),
        memory_embed=dict(patch_size=20, type='PatchTokens'),
        out_indices=(
            0,
            2,
            3,
            5,
        ),
        out_stream='memory',
        process_embed=dict(rows=15, type='PooledCells'),
        type='mmvittm.ViTTM'),
    data_preprocessor=dict(
        bgr_to_rgb=True,
        mean=[
            123.675,
            116.28,
            103.53,
        ],
        pad_val=0,
        seg_pad_val=255,
        size=(
            2700,
            300,
        ),
        std=[
            58.395,
            57.12,
            57.375,
        ],
        test_cfg=dict(size_divisor=20),
        type='SegDataPreProcessor'),
    decode_head=dict(
        align_corners=False,
        channels=8,
        dropout_ratio=0.0,
        fine_upscale=2,
        in_channels=[
            96,
            96,
            96,
            96,
        ],
        in_index=[
            0,
            1,
            2,
            3,
        ],
        loss_decode=dict(avg_non_ignore=True, type='CrossEntropyLoss'),
        norm_cfg=dict(momentum=0.05, type='BN'),
        num_classes=6,
        pixel_channels=16,
        token_channels=96,
        type='mmvittm.PixelShuffleHead',
        upscale=5),
    test_cfg=dict(mode='whole'),
    train_cfg=dict(),
    type='EncoderDecoder')
optim_wrapper = dict(
    clip_grad=dict(max_norm=1.0),
    optimizer=dict(
        betas=(
            0.9,
            0.98,
        ), lr=0.003, type='AdamW', weight_decay=0.05),
    paramwise_cfg=dict(
        bias_decay_mult=0.0,
        custom_keys=dict(pos_embed=dict(decay_mult=0.0, lr_mult=4.0)),
        norm_decay_mult=0.0),
    type='OptimWrapper')
param_scheduler = [
    dict(begin=0, by_epoch=False, end=270, start_factor=0.04, type='LinearLR'),
    dict(
        begin=270,
        by_epoch=False,
        end=2700,
        eta_min=0.0,
        type='CosineAnnealingLR'),
]
randomness = dict(seed=0)
resume = False
scene = dict(
    _delete_=True,
    data_root='data/blue_marble_scene',
    type='mmvittm.BlueMarbleDataset')
sync_bn = 'torch'
test_cfg = dict(type='mmvittm.ReadableTestLoop')
test_dataloader = dict(
    batch_size=1,
    dataset=dict(
        data_prefix=dict(
            img_path='images', seg_map_path='annotations/fold2/held_out'),
        data_root='data/blue_marble_scene',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
        type='mmvittm.BlueMarbleDataset'),
    num_workers=1,
    persistent_workers=True,
    sampler=dict(round_up=False, shuffle=False, type='DefaultSampler'))
test_evaluator = dict(
    iou_metrics=[
        'mIoU',
    ], type='mmvittm.ClassIoUMetric')
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
tiles = dict(
    data_prefix=dict(img_path='images', seg_map_path='annotations'),
    data_root='data/blue_marble',
    fold=2,
    type='mmvittm.BlueMarbleDataset')
train_cfg = dict(
    max_iters=2700, type='mmvittm.ResumableIterLoop', val_interval=2700)
train_dataloader = dict(
    batch_size=1,
    dataset=dict(
        data_prefix=dict(
            img_path='images', seg_map_path='annotations/fold2/training'),
        data_root='data/blue_marble_scene',
        pipeline=[
            dict(
                transforms=[
                    dict(type='LoadImageFromFile'),
                    dict(type='LoadAnnotations'),
                ],
                type='mmvittm.Cached'),
            dict(type='mmvittm.RandomRoll'),
            dict(
                cat_max_ratio=0.75, crop_size=(
                    2700,
                    300,
                ), type='RandomCrop'),
            dict(prob=0.5, type='RandomFlip'),
            dict(
                brightness_delta=8,
                contrast_range=(
                    0.9,
                    1.1,
                ),
                hue_delta=2,
                saturation_range=(
                    0.9,
                    1.1,
                ),
                type='PhotoMetricDistortion'),
            dict(type='PackSegInputs'),
        ],
        type='mmvittm.BlueMarbleDataset'),
    num_workers=1,
    persistent_workers=True,
    sampler=dict(shuffle=True, type='InfiniteSampler'))
train_pipeline = [
    dict(
        transforms=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
        ],
        type='mmvittm.Cached'),
    dict(type='mmvittm.RandomRoll'),
    dict(cat_max_ratio=0.75, crop_size=(
        2700,
        300,
    ), type='RandomCrop'),
    dict(prob=0.5, type='RandomFlip'),
    dict(
        brightness_delta=8,
        contrast_range=(
            0.9,
            1.1,
        ),
        hue_delta=2,
        saturation_range=(
            0.9,
            1.1,
        ),
        type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
tta_model = dict(type='SegTTAModel')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        transforms=[
            [
                dict(keep_ratio=True, scale_factor=1.5, type='Resize'),
                dict(keep_ratio=True, scale_factor=1.75, type='Resize'),
                dict(keep_ratio=True, scale_factor=2.0, type='Resize'),
            ],
            [
                dict(direction='horizontal', prob=0.0, type='RandomFlip'),
                dict(direction='horizontal', prob=1.0, type='RandomFlip'),
            ],
            [
                dict(type='LoadAnnotations'),
            ],
            [
                dict(type='PackSegInputs'),
            ],
        ],
        type='TestTimeAug'),
]
val_cfg = dict(type='mmvittm.ReadableValLoop')
val_dataloader = dict(
    batch_size=1,
    dataset=dict(
        data_prefix=dict(
            img_path='images', seg_map_path='annotations/fold2/held_out'),
        data_root='data/blue_marble_scene',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
        type='mmvittm.BlueMarbleDataset'),
    num_workers=1,
    persistent_workers=True,
    sampler=dict(round_up=False, shuffle=False, type='DefaultSampler'))
val_evaluator = dict(
    iou_metrics=[
        'mIoU',
    ], type='mmvittm.ClassIoUMetric')
vis_backends = [
    dict(type='LocalVisBackend'),
]
visualizer = dict(
    name='visualizer',
    type='SegLocalVisualizer',
    vis_backends=[
        dict(type='LocalVisBackend'),
    ])
warmup = 270
window_size = (
    2700,
    300,
)
