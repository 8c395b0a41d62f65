"""Compare what TrainingDynamicsHook writes to TensorBoard with the same numbers computed by hand."""

import pytest
import torch
import torch.distributed as dist
from helpers.tiny import ARCH, images, one_thread, tiny_backbone  # noqa: F401
from mmengine.dataset import pseudo_collate
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from mmvittm.engine import TrainingDynamicsHook
from mmvittm.errors import UserError

PER_BLOCK = (
    'process_norm',
    'memory_norm',
    'read_update',
    'write_update',
    'grad_norm',
    'read_head_grad_norm',
    'write_head_grad_norm',
)


def classifier(**backbone):
    torch.manual_seed(0)
    backbone = tiny_backbone(out_stream='tokens', **backbone)
    head = dict(type='mmvittm.ViTTMClsHead', num_classes=2, in_channels=16)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(dict(type='ImageClassifier', backbone=backbone, head=head))


def batch():
    samples = [DataSample().set_gt_label(label) for label in (0, 1)]
    return [dict(inputs=image, data_samples=sample) for image, sample in zip(images(), samples, strict=True)]


def train(model, work_dir, interval, iterations, **optim_wrapper) -> dict[str, dict[int, float]]:
    """Train on the same batch with a learning rate of 0; return TensorBoard's scalars by tag and step."""
    runner = Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=DataLoader(batch() * iterations, batch_size=2, collate_fn=pseudo_collate),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=iterations),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0), **optim_wrapper),
        custom_hooks=[dict(type='mmvittm.TrainingDynamicsHook', interval=interval)],
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='TensorboardVisBackend')]),
        experiment_name=work_dir.name,
        randomness=dict(seed=0),
    )
    runner.train()
    runner.visualizer.close()
    (events,) = work_dir.rglob('events.out.tfevents*')
    found = EventAccumulator(str(events)).Reload()
    scalars = [tag for tag in found.Tags()['scalars'] if tag.startswith('backbone/')]
    return {tag: {event.step: event.value for event in found.Scalars(tag)} for tag in scalars}


def mean_norm(tokens):
    return tokens.norm(dim=-1).mean().item()


def test_numbers_by_hand(tmp_path):
    model = classifier()
    found = train(model, tmp_path, interval=2, iterations=5)
    assert found.keys() == {f'backbone/{name}/block_{i:02d}' for name in PER_BLOCK for i in (0, 1)} | {
        'backbone/grad_norm/embeddings'
    }
    assert all(list(steps) == [2, 4] for steps in found.values())
    got = {tag.removeprefix('backbone/'): steps[4] for tag, steps in found.items()}

    x, backbone = images(), model.backbone
    maps = MODELS.build(tiny_backbone(out_indices=(0, 1), out_stream='memory'))
    maps.load_state_dict(backbone.state_dict())
    for index, memory in enumerate(maps(x)):
        assert got[f'memory_norm/block_{index:02d}'] == pytest.approx(mean_norm(memory.movedim(1, -1)), rel=1e-4)

    first = backbone.layers[0]
    process, memory = (first.read_norm(embed(x)[0]) for embed in (backbone.process_embed, backbone.memory_embed))
    read = first.read_head(memory, process)
    assert got['read_update/block_00'] == pytest.approx(mean_norm(read) / mean_norm(process), rel=1e-4)
    process = first.vit_block(process + read)
    assert got['process_norm/block_00'] == pytest.approx(mean_norm(process), rel=1e-4)
    process, memory = first.write_norm(process), first.write_norm(memory)
    write = first.write_head(process, memory)
    assert got['write_update/block_00'] == pytest.approx(mean_norm(write) / mean_norm(memory), rel=1e-4)

    model.zero_grad()
    model.parse_losses(model(x, [sample['data_samples'] for sample in batch()], mode='loss'))[0].backward()
    for key, modules in {
        'grad_norm/block_01': [backbone.layers[1]],
        'read_head_grad_norm/block_00': [first.read_head],
        'write_head_grad_norm/block_01': [backbone.layers[1].write_head],
        'grad_norm/embeddings': [backbone.memory_embed, backbone.process_embed],
    }.items():
        grads = torch.cat([parameter.grad.flatten() for module in modules for parameter in module.parameters()])
        assert got[key] == pytest.approx(grads.norm().item(), rel=1e-4), key


def test_vit_has_process_tokens_and_gradients(tmp_path):
    torch.manual_seed(0)
    backbone = dict(type='mmpretrain.VisionTransformer', arch=ARCH, img_size=16, patch_size=8)
    head = dict(type='mmpretrain.VisionTransformerClsHead', num_classes=2, in_channels=16)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(type='ImageClassifier', backbone=backbone, head=head))
    found = train(model, tmp_path, interval=1, iterations=1)
    got = {tag.removeprefix('backbone/'): steps[1] for tag, steps in found.items()}
    assert got.keys() == {f'{name}/block_{i:02d}' for name in ('process_norm', 'grad_norm') for i in (0, 1)} | {
        'grad_norm/embeddings'
    }

    first = model.backbone.layers[0]
    outputs = []
    first.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    model.zero_grad()
    model.parse_losses(model(images(), [sample['data_samples'] for sample in batch()], mode='loss'))[0].backward()
    assert got['process_norm/block_00'] == pytest.approx(mean_norm(outputs[0]), rel=1e-4)
    for key, module in {'grad_norm/block_00': first, 'grad_norm/embeddings': model.backbone.patch_embed}.items():
        grads = torch.cat([parameter.grad.flatten() for parameter in module.parameters()])
        assert got[key] == pytest.approx(grads.norm().item(), rel=1e-4), key


def test_recomputed_activations_count_once(tmp_path):
    plain, checkpointed = (
        train(classifier(with_cp=with_cp), tmp_path / str(with_cp), interval=1, iterations=1)
        for with_cp in (False, True)
    )
    assert plain.keys() == checkpointed.keys()
    for tag in plain:
        assert checkpointed[tag][1] == pytest.approx(plain[tag][1], rel=1e-5), tag


def test_distributed_wrapper(tmp_path):
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = MMDistributedDataParallel(classifier())
        wrapped = train(model, tmp_path / 'wrapped', interval=1, iterations=1)
    finally:
        dist.destroy_process_group()
    plain = train(classifier(), tmp_path / 'plain', interval=1, iterations=1)
    assert wrapped.keys() == plain.keys()
    assert all(wrapped[tag][1] == pytest.approx(plain[tag][1], rel=1e-5) for tag in plain)


def test_accumulated_gradients(tmp_path):
    """Every second iteration makes a step, so what is due after the third is logged after the fourth."""
    found = train(classifier(), tmp_path, interval=3, iterations=6, accumulative_counts=2)
    assert all(list(steps) == [4, 6] for steps in found.values())


def test_hooks_are_removed(tmp_path):
    model = classifier()
    train(model, tmp_path, interval=2, iterations=3)
    assert not any(module._forward_hooks for module in model.modules())


def test_model_without_transformer(tmp_path):
    model = MODELS.build(dict(type='mmpretrain.ImageClassifier', backbone=dict(type='mmpretrain.LeNet5')))
    with pytest.raises(UserError, match='found neither ViTTM nor VisionTransformer in the model: remove it'):
        train(model, tmp_path, interval=1, iterations=1)


def test_memory_in_chunks(tmp_path):
    with pytest.raises(UserError, match='needs all memory tokens of backbone at once, and memory_chunk is 4: leave'):
        train(classifier(memory_chunk=4), tmp_path, interval=1, iterations=1)


def test_interval():
    with pytest.raises(UserError, match='interval of TrainingDynamicsHook must be at least 1, not 0'):
        TrainingDynamicsHook(interval=0)
