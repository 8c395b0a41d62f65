# The whole Earth as one image. Training sees windows of full height at a random longitude, so that a pass over the
# Earth makes several steps; the labels of the fold's columns are ignored. These columns alone are evaluated, in one
# pass over the Earth and on the tiles of blue_marble.py.
_base_ = './blue_marble.py'
data_root = 'data/blue_marble_scene'
data_help = 'make it with `python -m mmvittm data blue-marble-scene`'
test_size = (2700, 5400)  # of the whole scene
window_size = (2700, 300)
train_pipeline = [
    dict(type='mmvittm.Cached', transforms=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]),
    dict(type='mmvittm.RandomRoll'),
    dict(type='RandomCrop', crop_size=window_size, cat_max_ratio=0.75),  # not all ocean
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='PhotoMetricDistortion',
        brightness_delta=8,
        contrast_range=(0.9, 1.1),
        saturation_range=(0.9, 1.1),
        hue_delta=2,
    ),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms[0] = [dict(type='Resize', scale_factor=1.0, keep_ratio=True)]
scene = dict(
    _delete_=True,
    type='mmvittm.BlueMarbleDataset',
    data_root=data_root,
)
train_dataloader = dict(
    batch_size=1,
    num_workers=1,
    dataset=dict(
        **scene,
        data_prefix=dict(img_path='images', seg_map_path=f'annotations/fold{_base_.fold}/training'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        **scene,
        data_prefix=dict(img_path='images', seg_map_path=f'annotations/fold{_base_.fold}/held_out'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
