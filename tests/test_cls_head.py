"""The classifier's head: losses of both streams, whose logits count, what it refuses."""

from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import tiny_backbone
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmpretrain import FeatureExtractor, get_model
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn

from mmvittm.errors import UserError
from mmvittm.models import AverageStreamScoreTTA, ViTTMClsHead
from mmvittm.models.token_embeds import resample_pos_embed

BACKBONE = tiny_backbone(out_stream='tokens')


HEAD = dict(type='mmvittm.ViTTMClsHead', num_classes=3, in_channels=16)


def build_cfg(data_preprocessor: dict | None = None, **head) -> dict:
    return dict(type='ImageClassifier', backbone=BACKBONE, head=HEAD | head, data_preprocessor=data_preprocessor)


def build(data_preprocessor: dict | None = None, **head) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS.build(build_cfg(data_preprocessor, **head))
    model.init_weights()
    return model


def batch():
    samples = [DataSample().set_gt_label(label) for label in (0, 2)]
    return torch.randn(2, 3, 16, 16), samples


def test_the_loss_is_the_sum_of_both_streams_losses():
    model, (images, samples) = build(cal_acc=True).eval(), batch()
    losses = model(images, samples, mode='loss')
    process, memory = model.head.stream_logits(model.backbone(images))
    target = torch.tensor([0, 2])
    for name, logits in dict(memory=memory, process=process, mean=(memory + process) / 2).items():
        hits = (logits.argmax(1) == target).float().mean() * 100
        assert losses[f'{name}_accuracy_top-1'] == [hits]
    assert {name for name in losses if 'loss' in name} == {'memory_loss', 'process_loss'}
    torch.testing.assert_close(losses['memory_loss'], F.cross_entropy(memory, target))
    torch.testing.assert_close(losses['process_loss'], F.cross_entropy(process, target))
    total, _ = model.parse_losses(losses)
    torch.testing.assert_close(total, losses['memory_loss'] + losses['process_loss'])


def test_every_parameter_gets_a_gradient():
    """The final norm, the last write and both classifiers included: nothing is left for DDP to look for."""
    model, (images, samples) = build().train(), batch()
    model.parse_losses(model(images, samples, mode='loss'))[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_soft_labels_and_binary_cross_entropy():
    """Soft labels, as mixup and cutmix make them, with the loss of the authors' fine-tuning."""
    model, (images, _) = build(loss=dict(type='CrossEntropyLoss', use_sigmoid=True)).eval(), batch()
    scores = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.5, 0.5]])
    losses = model(images, [DataSample().set_gt_score(score) for score in scores], mode='loss')
    _, memory = model.head.stream_logits(model.backbone(images))
    expected = F.binary_cross_entropy_with_logits(memory, scores, reduction='none').sum() / 2
    torch.testing.assert_close(losses['memory_loss'], expected)


def test_label_smoothing():
    loss = dict(type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=3, mode='original')
    model, (images, samples) = build(loss=loss).eval(), batch()
    losses = model(images, samples, mode='loss')
    _, memory = model.head.stream_logits(model.backbone(images))
    expected = F.cross_entropy(memory, torch.tensor([0, 2]), label_smoothing=0.1)
    torch.testing.assert_close(losses['memory_loss'], expected)


@pytest.mark.parametrize(
    'mix', [dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)], ids=lambda mix: mix['type']
)
@pytest.mark.parametrize('use_sigmoid', [False, True])
def test_mixed_batches(mix, use_sigmoid):
    """Both streams are trained on the soft labels that the preprocessor made."""
    loss = dict(type='CrossEntropyLoss', use_sigmoid=use_sigmoid, use_soft=not use_sigmoid)
    model, (images, samples) = (
        build(dict(num_classes=3, batch_augments=dict(augments=[mix])), loss=loss).eval(),
        batch(),
    )
    mixed = model.data_preprocessor(dict(inputs=images, data_samples=samples), training=True)
    scores = torch.stack([sample.gt_score for sample in mixed['data_samples']])
    torch.testing.assert_close(scores.sum(1), torch.ones(2))
    losses = model(**mixed, mode='loss')
    process, memory = model.head.stream_logits(model.backbone(mixed['inputs']))
    for name, logits in (('memory', memory), ('process', process)):
        log_p, log_not_p = (F.logsigmoid(logits), F.logsigmoid(-logits)) if use_sigmoid else (logits.log_softmax(1), 0)
        expected = -(scores * log_p + (1 - scores) * log_not_p).sum() / 2
        torch.testing.assert_close(losses[f'{name}_loss'], expected)


def test_dropout_of_both_classifiers():
    head = build(dropout_rate=1.0).head.train()
    nn.init.ones_(head.process_fc.bias), nn.init.ones_(head.memory_fc.bias)
    process, memory = head.stream_logits(((torch.randn(2, 4, 16), torch.randn(2, 9, 16)),))
    assert process.unique().tolist() == memory.unique().tolist() == [1]


def test_predictions_follow_predict_from():
    images, _ = batch()
    for name in ViTTMClsHead.PREDICTIONS:
        model = build(predict_from=name).eval()
        logits = model(images, mode='tensor')
        samples = model(images, mode='predict')
        torch.testing.assert_close(torch.stack([sample.pred_score for sample in samples]), logits.softmax(1))
        process, memory = model.head.stream_logits(model.backbone(images))
        for key, each in dict(memory=memory, process=process, mean=(memory + process) / 2).items():
            scores = torch.stack([sample.get(f'pred_score_{key}') for sample in samples])
            torch.testing.assert_close(scores, each.softmax(1))


def test_accuracy_of_each_stream():
    scores = dict(memory=[0.9, 0.1], process=[0.2, 0.8], mean=[0.55, 0.45])
    sample = DataSample().set_gt_label(1).set_pred_score(torch.tensor(scores['memory']))
    for name, each in scores.items():
        sample.set_field(torch.tensor(each), f'pred_score_{name}')
    evaluator = Evaluator([dict(type='mmvittm.StreamAccuracy', stream=name) for name in scores])
    evaluator.process([sample])
    assert evaluator.evaluate(1) == {'memory/top1': 0.0, 'process/top1': 100.0, 'mean/top1': 0.0}


@torch.no_grad()
def test_scores_of_augmented_images_are_averaged_for_each_stream():
    model, (images, _) = build().eval(), batch()
    views = [model(each, mode='predict') for each in (images, images.flip(3))]
    merged = AverageStreamScoreTTA(model).merge_preds(list(zip(*deepcopy(views), strict=True)))
    for sample, first, second in zip(merged, *views, strict=True):
        for name in ('pred_score', 'pred_score_memory', 'pred_score_process', 'pred_score_mean'):
            torch.testing.assert_close(sample.get(name), (first.get(name) + second.get(name)) / 2)


# In mmpretrain's hands


def test_get_model_with_weights_of_another_image_size(tmp_path):
    trained = build()
    torch.save(dict(state_dict=trained.state_dict()), tmp_path / 'weights.pth')
    larger = dict(BACKBONE, img_size=24)
    model = get_model(
        Config(dict(model=dict(type='ImageClassifier', backbone=larger, head=HEAD), default_scope='mmpretrain')),
        pretrained=str(tmp_path / 'weights.pth'),
    )
    expected = resample_pos_embed(trained.backbone.memory_embed.pos_embed, (4, 4), (6, 6))
    torch.testing.assert_close(model.backbone.memory_embed.pos_embed, expected)
    torch.testing.assert_close(model.head.process_fc.weight, trained.head.process_fc.weight)
    assert model(torch.randn(1, 3, 24, 24), mode='tensor').shape == (1, 3)


def test_features_of_every_stage():
    model, (images, _) = build().eval(), batch()
    process, memory = model.extract_feat(images, stage='backbone')[-1]
    assert (process.shape, memory.shape) == ((2, 4, 16), (2, 16, 16))
    for one, other in zip(model.extract_feat(images, stage='neck')[-1], (process, memory), strict=True):
        torch.testing.assert_close(one, other)
    pre_process, pre_memory = model.extract_feat(images, stage='pre_logits')
    torch.testing.assert_close(model.head.memory_fc(pre_memory), model(images, mode='tensor'))
    torch.testing.assert_close(pre_process, F.layer_norm(process.mean(1), (16,), eps=1e-6))


@torch.no_grad()
def test_feature_extractor():
    cfg = Config(dict(model=build_cfg(), default_scope='mmpretrain'))
    cfg.test_dataloader = dict(dataset=dict(type='CustomDataset', pipeline=[dict(type='PackInputs')]))
    extractor = FeatureExtractor(cfg, pretrained=False, device='cpu')
    image = np.arange(768).astype(np.uint8).reshape(16, 16, 3)
    (features,) = extractor([image], stage='pre_logits')
    inputs = extractor.model.data_preprocessor(dict(inputs=torch.tensor(image).permute(2, 0, 1)[None]))['inputs']
    for found, expected in zip(features, extractor.model.extract_feat(inputs, stage='pre_logits'), strict=True):
        torch.testing.assert_close(found, expected[0])


@pytest.mark.parametrize(('layer', 'stream', 'side'), [('memory_block', 'memory', 4), ('vit_block', 'process', 2)])
def test_class_activation_maps_of_tokens(layer, stream, side):
    """As mmpretrain's vis_cam.py makes them with --vit-like: hooks on a layer, its extra tokens cut, a square grid."""
    model, (images, _) = build(predict_from=stream).eval(), batch()
    seen = []
    module = model.get_submodule(f'backbone.layers.1.{layer}')
    module.register_forward_hook(lambda module, args, output: seen.append(output))
    logits = model(images, mode='tensor')
    (tokens,) = seen
    (gradients,) = torch.autograd.grad(logits[:, 1].sum(), tokens)
    tokens, gradients = (each[:, getattr(model.backbone, 'num_extra_tokens', 1) :] for each in (tokens, gradients))
    maps, gradients = (each.reshape(2, side, side, 16).permute(0, 3, 1, 2) for each in (tokens, gradients))
    cam = (gradients.mean((2, 3), keepdim=True) * maps).sum(1).relu()
    assert cam.shape == (2, side, side)
    assert cam.std() > 0


@pytest.mark.parametrize(('stream', 'side'), [('memory', 4), ('process', 2)])
def test_class_activation_maps_of_maps(stream, side):
    """Behind pooled maps Grad-CAM is the map of each position's share in the logit, which the maps must add up to."""
    backbone = dict(BACKBONE, out_stream=stream)
    head = dict(type='LinearClsHead', num_classes=3, in_channels=16)
    cfg = dict(type='ImageClassifier', backbone=backbone, neck=dict(type='GlobalAveragePooling'), head=head)
    model, (images, _) = MODELS.build(cfg).eval(), batch()
    (maps,) = model.extract_feat(images, stage='backbone')
    maps = maps.detach().requires_grad_()
    logits = model.head(model.neck((maps,)))
    (gradients,) = torch.autograd.grad(logits[:, 1].sum(), maps)
    cam = (gradients.mean((2, 3), keepdim=True) * maps).sum(1)
    assert cam.shape == (2, side, side)
    torch.testing.assert_close(cam.sum((1, 2)) + model.head.fc.bias[1], logits[:, 1])


def test_unknown_predict_from():
    with pytest.raises(UserError, match="unknown predict_from 'both': choose one of memory, process, mean"):
        build(predict_from='both')


def test_maps_instead_of_tokens():
    head = ViTTMClsHead(num_classes=3, in_channels=16)
    with pytest.raises(UserError, match="set out_stream='tokens' in the backbone"):
        head((torch.randn(2, 16, 4, 4),))
