_base_ = './vittm-6x96_16-pooled-8_pixel-shuffle_1xb16-2k_digit-scenes-256x256.py'
crop_size = (1024, 1024)
model = dict(data_preprocessor=dict(size=crop_size), backbone=dict(img_size=crop_size))
train_dataloader = dict(batch_size=1, dataset=dict(side=crop_size[0]))
val_dataloader = dict(dataset=dict(side=crop_size[0], num_scenes=30))
test_dataloader = val_dataloader
auto_scale_lr = dict(base_batch_size=1)
