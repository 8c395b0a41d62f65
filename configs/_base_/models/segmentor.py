# Shared by all segmentors: ImageNet's normalisation of RGB images, and tests on whole images.
# Configs that build on this one add the backbone, and its patch size as data_preprocessor.test_cfg.size_divisor: test
# images are then padded to whole patches, and the logits of the padding are cropped before they are resized.
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
