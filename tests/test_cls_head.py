"""The classifier's head: losses of both streams, whose logits count, what it refuses."""

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn

from mmvittm.errors import UserError
from mmvittm.models import ViTTMClsHead

BACKBONE = dict(
    type='mmvittm.ViTTM',
    arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
    img_size=16,
    memory_embed=dict(type='PatchTokens', patch_size=4),
    process_embed=dict(type='PatchTokens', patch_size=8),
    rw_head=dict(type='LinearAttention', latent_ratio=2),
    out_stream='tokens',
)


def build(**head) -> nn.Module:
    torch.manual_seed(0)
    head = dict(type='mmvittm.ViTTMClsHead', num_classes=3, in_channels=16) | head
    model = MODELS.build(dict(type='ImageClassifier', backbone=BACKBONE, head=head))
    model.init_weights()
    return model


def batch():
    samples = [DataSample().set_gt_label(label) for label in (0, 2)]
    return torch.randn(2, 3, 16, 16), samples


def test_the_loss_is_the_sum_of_both_streams_losses():
    model, (images, samples) = build(cal_acc=True).eval(), batch()
    losses = model(images, samples, mode='loss')
    logits = model.head.stream_logits(model.backbone(images))
    target = torch.tensor([0, 2])
    for name, of_stream in zip(('memory', 'process'), logits, strict=True):
        torch.testing.assert_close(losses[f'{name}_loss'], F.cross_entropy(of_stream, target))
        hits = (of_stream.argmax(1) == target).float().mean() * 100
        assert losses[f'{name}_accuracy_top-1'] == [hits]
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
    """What mixup and cutmix make of labels, with the loss of the authors' fine-tuning."""
    model, (images, _) = build(loss=dict(type='CrossEntropyLoss', use_sigmoid=True)).eval(), batch()
    scores = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.5, 0.5]])
    losses = model(images, [DataSample().set_gt_score(score) for score in scores], mode='loss')
    memory, _ = model.head.stream_logits(model.backbone(images))
    expected = F.binary_cross_entropy_with_logits(memory, scores, reduction='none').sum() / 2
    torch.testing.assert_close(losses['memory_loss'], expected)


def test_predictions_follow_predict_from():
    images, _ = batch()
    for name in ViTTMClsHead.PREDICTIONS:
        model = build(predict_from=name).eval()
        logits = model(images, mode='tensor')
        predicted = torch.stack([sample.pred_score for sample in model(images, mode='predict')])
        torch.testing.assert_close(predicted, logits.softmax(1))


def test_unknown_predict_from():
    with pytest.raises(UserError, match="unknown predict_from 'both': choose one of memory, process, mean"):
        build(predict_from='both')


def test_maps_instead_of_tokens():
    head = ViTTMClsHead(num_classes=3, in_channels=16)
    with pytest.raises(UserError, match="set out_stream='tokens' in the backbone"):
        head((torch.randn(2, 16, 4, 4),))
