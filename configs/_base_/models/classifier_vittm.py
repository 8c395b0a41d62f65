# One linear classifier on the mean memory token and one on the mean process token. Configs that build on this one set
# the number of classes.
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='mmvittm.ViTTM',
        arch='base',
        img_size=224,
        memory_embed=dict(type='PatchTokens', patch_size=28),
        process_embed=dict(type='PatchTokens', patch_size=28),
        out_stream='tokens',
    ),
    head=dict(type='mmvittm.ViTTMClsHead', in_channels=768, predict_from='memory'),
)
# accuracy/top1 uses the head's predict_from
val_evaluator = [
    dict(type='Accuracy', topk=(1, 5)),
    *(dict(type='mmvittm.StreamAccuracy', stream=stream, topk=(1, 5)) for stream in ('memory', 'process', 'mean')),
]
test_evaluator = val_evaluator
