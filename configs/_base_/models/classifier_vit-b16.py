# Baseline: mmpretrain's ViT with its class token.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='VisionTransformer', arch='base', img_size=224, patch_size=16),
    head=dict(type='VisionTransformerClsHead', in_channels=768),
)
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
