dataset_type = 'mmvittm.BlueMarbleDataset'
data_root = 'data/blue_marble'
data_help = 'make it with `python tools/dataset_converters/blue_marble.py` (it needs `pip install "mmvittm[demo]"`)'
crop_size = (256, 256)
# 94 training tiles: the augmentation is strong where the land looks the same (place, scale, orientation) and weak
# where it does not (colour tells the climate zones apart).
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='mmvittm.CheckLabels', num_classes=6),
    dict(type='RandomResize', scale=(300, 300), ratio_range=(0.87, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    # a random number of quarter turns, then a flip along a random axis: all eight orientations
    dict(type='RandomRotFlip', rotate_prob=0.0, flip_prob=1.0),
    dict(
        type='PhotoMetricDistortion',
        brightness_delta=8,
        contrast_range=(0.9, 1.1),
        saturation_range=(0.9, 1.1),
        hue_delta=2,
    ),
    dict(type='PackSegInputs'),
]
# Tiles are enlarged for testing, into the upper half of the training scales, to a size of whole patches: of the sizes
# tried on the validation tiles 480 to 600 do well and 300 poorly (README).
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(512, 512), keep_ratio=True),
    # after Resize: predictions are compared at the annotation's own size
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale_factor=r, keep_ratio=True) for r in (1.5, 1.75, 2.0)],
            [dict(type='RandomFlip', prob=p, direction='horizontal') for p in (0.0, 1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmvittm.ClassIoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
