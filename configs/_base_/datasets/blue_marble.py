_base_ = './ade20k_512x512.py'
dataset_type = 'mmvittm.BlueMarbleDataset'
data_root = 'data/blue_marble'
data_help = 'make it with `python -m mmvittm data blue-marble`'
# Folds 0 to 5 hold out the tile columns fold, fold + 6 and fold + 12. The environment variable BLUE_MARBLE_FOLD selects
# one for all three data loaders.
fold = {{'$BLUE_MARBLE_FOLD:2'}}
crop_size = (256, 256)
# Fewer than 100 training tiles: augmentation is strong where it keeps the classes apart (position, scale, orientation)
# and weak in colour, which separates the climate zones.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(300, 300), ratio_range=(0.87, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    # random quarter turns, then a flip along a random axis: all eight orientations
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
# Test tiles are enlarged from 300 to 512 pixels, a multiple of the patches in the upper half of the training scales. On
# the held-out tiles of fold 2, sizes from 480 to 600 did well and 300 poorly.
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = (512, 512)  # Resize
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms[0] = [dict(type='Resize', scale_factor=r, keep_ratio=True) for r in (1.5, 1.75, 2.0)]
tiles = dict(
    type=dataset_type,
    data_root=data_root,
    data_prefix=dict(img_path='images', seg_map_path='annotations'),
    fold=fold,
)
train_dataloader = dict(batch_size=8, num_workers=2, dataset=dict(**tiles, pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, dataset=dict(**tiles, held_out=True, pipeline=test_pipeline))
test_dataloader = val_dataloader
