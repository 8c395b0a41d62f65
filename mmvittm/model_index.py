"""The names of the model index, for mmpretrain's functions and for the inferencers of OpenMMLab."""

from collections.abc import Iterator

from mmengine.infer import BaseInferencer
from mmpretrain.apis import ModelHub

from . import configs_dir

ROOT = configs_dir().parent
CLASSIFIERS = 'configs/vittm/metafile_classification.yml'


def register_names() -> None:
    """Let ``mmpretrain.get_model(NAME)`` and ``MMSegInferencer(NAME)`` find the models of this package."""
    ModelHub.register_model_index(ROOT / CLASSIFIERS, config_prefix=ROOT)
    others = BaseInferencer._get_models_from_metafile

    def with_ours(folder: str) -> Iterator[dict]:
        yield from others(folder)
        for model in others(str(ROOT)):
            yield dict(model, Config=str(ROOT / model['Config']), Weights=model.get('Weights'))

    BaseInferencer._get_models_from_metafile = staticmethod(with_ours)
