"""Write the checkpoints of this folder with mmvittm 0.1.0, and what they compute.

Trains each config for two steps with mmengine's Runner, which saves the checkpoint with optimizer state and logs, then
stores images of another size than the model's ``img_size`` and the model's outputs on them. From a checkout of 0.1.0:

    PYTHONPATH=. python <this file>
"""

import tempfile
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from mmengine.structures import PixelData
from safetensors.torch import save
from torch.utils.data import DataLoader, Dataset

import mmvittm

HERE = Path(__file__).parent
CLASSES = ('a', 'b', 'c')


class RandomImages(Dataset):
    metainfo = dict(classes=CLASSES, palette=[(0, 0, 0), (90, 0, 0), (0, 90, 0)])

    def __init__(self, name: str) -> None:
        self.name = name

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict:
        if self.name == 'classifier':
            sample = DataSample().set_gt_label(index % 3)
        else:
            sample = SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 3, (1, 24, 24))))
            sample.set_metainfo(dict(img_shape=(24, 24)))
        return dict(inputs=torch.randn(3, 24, 24), data_samples=sample)


def main() -> None:
    assert mmvittm.__version__ == '0.1.0'
    for name in ('classifier', 'segmentor'):
        cfg = Config.fromfile(HERE / f'{name}.py')
        with tempfile.TemporaryDirectory() as folder:
            runner = Runner(
                model=cfg.model,
                work_dir=folder,
                train_dataloader=DataLoader(RandomImages(name), batch_size=2, collate_fn=pseudo_collate),
                train_cfg=dict(by_epoch=True, max_epochs=1),
                optim_wrapper=cfg.optim_wrapper,
                default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1), logger=dict(type='LoggerHook', interval=1)),
                randomness=dict(seed=0),
                default_scope=cfg.default_scope,
                cfg=dict(experiment_name=name),
            )
            runner.model.init_weights()
            for parameter in runner.model.parameters():
                parameter.data += 0.3 * torch.randn_like(parameter)
            runner.model.init_weights = lambda: None
            runner.train()
            (HERE / f'{name}.pth').write_bytes(Path(folder, 'epoch_1.pth').read_bytes())
        model, images = runner.model.eval(), torch.randn(2, 3, 24, 24)
        with torch.inference_mode():
            outputs = model(images, mode='tensor').contiguous()
        (HERE / f'{name}.safetensors').write_bytes(save(dict(images=images, outputs=outputs)))


if __name__ == '__main__':
    main()
