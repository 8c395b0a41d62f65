_base_ = './ade20k_512x512.py'
dataset_type = 'mmvittm.DigitScenesDataset'
data_root = 'data/blue_marble'
data_help = 'make the backgrounds with `python -m mmvittm data blue-marble`'
crop_size = (256, 256)
# Scenes are as large as the crops, and their labels are at full size: no resizing, cropping or flipping.
train_pipeline = [dict(type='mmvittm.MakeDigitScene'), dict(type='PackSegInputs')]
test_pipeline = train_pipeline
tta_pipeline = None
scenes = dict(_delete_=True, type=dataset_type, data_root=data_root, side=crop_size[0])
train_dataloader = dict(batch_size=8, num_workers=2, dataset=dict(**scenes, num_scenes=100000, pipeline=train_pipeline))
val_dataloader = dict(num_workers=1, dataset=dict(**scenes, held_out=True, num_scenes=500, pipeline=test_pipeline))
test_dataloader = val_dataloader
# model settings that go with the data; configs use them as `model = _base_.segmentor`
segmentor = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(img_size=crop_size),
    decode_head=dict(num_classes=11),
    auxiliary_head=dict(num_classes=11),
)
