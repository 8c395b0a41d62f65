# ImageNet-21k-P, winter 2021 (Ridnik et al., ImageNet-21K Pretraining for the Masses): 11,060,223 training and 522,500
# validation images, one folder for each of the 10,450 classes.
_base_ = './imagenet1k_224.py'
data_root = 'data/imagenet21k-p'
data_help = (
    'get ImageNet-21k of winter 2021 from https://image-net.org after signing in, make 21k-P of it with the scripts of '
    'https://github.com/Alibaba-MIIL/ImageNet21K and unpack it into data/imagenet21k-p as train/<class> and '
    "val/<class>, or name your copy with --cfg-options train_dataloader.dataset.data_root=… (val_ and test_'s too)"
)
num_classes = 10450
data_preprocessor = dict(num_classes=num_classes)
train_pipeline = [step for step in _base_.train_pipeline if step.type != 'RandomErasing']
train_dataloader = dict(
    dataset=dict(_delete_=True, type='CustomDataset', data_root=data_root, data_prefix='train', pipeline=train_pipeline)
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True, type='CustomDataset', data_root=data_root, data_prefix='val', pipeline=_base_.test_pipeline
    )
)
test_dataloader = val_dataloader
