dataset_type = 'CustomDataset'
data_root = 'data/mnist'
data_help = 'make it with `python -m mmvittm data mnist`'
data_preprocessor = dict(num_classes=10, mean=[33.3, 33.3, 33.3], std=[78.6, 78.6, 78.6])
# Small shifts, rotations and shears, filled with black; no flips, which change the digit.
moves = dict(pad_val=0, prob=0.5, interpolation='bilinear')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Rotate', magnitude_range=(0, 15), magnitude_std='inf', **moves),
    dict(type='Shear', magnitude_range=(0, 0.2), magnitude_std='inf', direction='horizontal', **moves),
    dict(type='Translate', magnitude_range=(0, 0.12), magnitude_std='inf', direction='horizontal', **moves),
    dict(type='Translate', magnitude_range=(0, 0.12), magnitude_std='inf', direction='vertical', **moves),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=32,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type=dataset_type, data_root=data_root, data_prefix='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    dataset=dict(type=dataset_type, data_root=data_root, data_prefix='val', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
