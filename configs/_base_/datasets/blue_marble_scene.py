# The whole Earth as one image. The labels of the fold's columns are ignored in training, and they alone are evaluated,
# at 5400×2700 and on the tiles of blue_marble.py.
_base_ = './blue_marble.py'
data_root = 'data/blue_marble_scene'
data_help = 'make it with `python -m mmvittm data blue-marble-scene`'
crop_size = (1344, 2688)  # of the whole scene: half of its size
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=crop_size[::-1], keep_ratio=False, interpolation='area'),
    dict(type='mmvittm.RandomRoll'),
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
    dict(type='Resize', scale=crop_size[::-1], keep_ratio=False, interpolation='area'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
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
