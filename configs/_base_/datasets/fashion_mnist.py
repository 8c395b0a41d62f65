_base_ = './mnist.py'
data_root = 'data/fashion_mnist'
data_help = 'make it with `python -m mmvittm data fashion-mnist` (it needs `apt-get install dataset-fashion-mnist`)'
# Garments are upright, and their mirror images are valid garments.
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomCrop', crop_size=28, padding=2),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
