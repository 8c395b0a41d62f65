"""The reference cases in ``tests/data``: small random models and the outputs of the authors' code.

Each safetensors file holds ``weights.*`` in the authors' layout, ``input``, the outputs, and the settings as JSON.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from mmvittm.models import ViTTM
from mmvittm.weights.authors import authors_to_mmvittm

DATA = Path(__file__).parents[1] / 'data'
CASES = sorted(path.stem for path in DATA.glob('*.safetensors'))

FUSIONS = dict(add='AddFusion', erase='EraseFusion', add_erase='AddEraseFusion')
HEADS_WITH_RATIO = {'LinearAttention', 'LatentAttention', 'LatentCrossAttention'}


@dataclass
class Golden:
    """One case: its settings, the authors' weights, and the other tensors by name."""

    case: dict
    weights: dict[str, Tensor]
    tensors: dict[str, Tensor]

    @classmethod
    def load(cls, name: str) -> 'Golden':
        with safe_open(DATA / f'{name}.safetensors', 'pt') as file:
            stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
            case = json.loads(file.metadata()['case'])
        weights = {key.removeprefix('weights.'): stored.pop(key) for key in list(stored) if key.startswith('weights.')}
        return cls(case, weights, stored)

    @property
    def features(self) -> dict[int, Tensor]:
        """Segmentation maps by block index."""
        maps = {key.removeprefix('feature_'): value for key, value in self.tensors.items() if 'feature_' in key}
        return {int(index): maps[index] for index in sorted(maps)}

    def converted(self, module: str) -> dict[str, Tensor]:
        """Return the weights of our ``'backbone'`` or ``'head'`` under its own keys."""
        ours = authors_to_mmvittm(self.weights)
        return {key.removeprefix(f'{module}.'): value for key, value in ours.items() if key.startswith(f'{module}.')}

    def backbone_cfg(self) -> dict:
        """Return our config of the backbone, without its type."""
        case = self.case
        rw_head = dict(type=case['rw_head'])
        if case['rw_head'] in HEADS_WITH_RATIO:
            rw_head['latent_ratio'] = case['latent_ratio']
        same_grid = case['memory_patch_size'] == case['process_patch_size']
        return dict(
            arch={key: case[key] for key in ('embed_dims', 'num_layers', 'num_heads', 'feedforward_channels')},
            img_size=tuple(case['img_size']),
            memory_embed=dict(type='PatchTokens', patch_size=case['memory_patch_size']),
            process_embed=dict(type='PatchTokens', patch_size=case['process_patch_size']),
            rw_head=rw_head,
            fusion=dict(type=FUSIONS[case['fusion']]),
            memory_block=dict(type='MemoryMLP', mlp_ratio=case['memory_mlp_ratio'])
            if 'memory_mlp_ratio' in case
            else None,
            layer_scale_init_value=case.get('layer_scale', 0.0),
            out_indices=tuple(self.features) or -1,
            out_stream='concat' if same_grid else 'process',
        )

    def build_backbone(self, **options) -> ViTTM:
        """Build the backbone with the authors' weights, in eval mode."""
        model = ViTTM(**self.backbone_cfg() | options)
        model.load_state_dict(self.converted('backbone'), strict=True)
        return model.eval()


def relative_error(ours: Tensor, reference: Tensor) -> float:
    """Compute ``‖ours − reference‖ / ‖reference‖``."""
    assert ours.shape == reference.shape
    return ((ours.double() - reference.double()).norm() / reference.double().norm()).item()
