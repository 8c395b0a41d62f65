"""Check the folders of a config's data sets before training or testing starts."""

from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from ..errors import UserError


def check_data(cfg: Config, *loaders: str) -> None:
    """Check that the data sets of ``loaders`` exist and that every image has its annotation.

    Args:
        cfg (Config): The config. Its ``data_help`` says how to get the data.
        *loaders (str): Names such as ``'train_dataloader'``. Loaders that the config does not have are ignored.

    Raises:
        UserError: If a folder is missing or empty, or images lack their annotation.
    """
    for loader in filter(cfg.get, loaders):
        for dataset in innermost_datasets(cfg[loader].dataset):
            with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
                problem = _problem(dataset)
            if problem:
                raise UserError(f'{loader}: {problem}; {cfg.get("data_help", "check data_root and data_prefix")}')


def innermost_datasets(dataset: dict) -> Iterator[dict]:
    """Yield the data sets inside wrappers such as ``RepeatDataset`` and ``ConcatDataset``."""
    inner = dataset.get('datasets') or ([dataset['dataset']] if 'dataset' in dataset else [])
    if not inner:
        yield dataset
    for each in inner:
        yield from innermost_datasets(each)


def _problem(dataset: dict) -> str | None:
    root = Path(dataset.get('data_root') or '')
    prefixes = dataset.get('data_prefix') or {}
    prefixes = {'img_path': prefixes} if isinstance(prefixes, str) else prefixes
    folders = {name: root / prefix for name, prefix in prefixes.items()}
    for folder in (root, *folders.values()):
        if not folder.is_dir():
            return f'data set folder not found: {folder}'
        if next(folder.iterdir(), None) is None:
            return f'data set folder {folder} is empty'
    if dataset.get('ann_file') or not folders.keys() >= {'img_path', 'seg_map_path'}:
        return None
    built = DATASETS.build({**dataset, 'lazy_init': True, 'pipeline': []})
    return _unpaired(folders['img_path'], built.img_suffix, folders['seg_map_path'], built.seg_map_suffix)


def _unpaired(images: Path, img_suffix: str, seg_maps: Path, seg_map_suffix: str) -> str | None:
    wanted = {str(path.relative_to(images)).removesuffix(img_suffix) for path in images.rglob(f'*{img_suffix}')}
    if not wanted:
        return f'data set folder {images} has no *{img_suffix} images'
    found = {
        str(path.relative_to(seg_maps)).removesuffix(seg_map_suffix) for path in seg_maps.rglob(f'*{seg_map_suffix}')
    }
    missing = sorted(wanted - found)
    if missing:
        return (
            f'{len(missing)} of {len(wanted)} images in {images} have no annotation, '
            f'the first is {seg_maps / missing[0]}{seg_map_suffix}'
        )
    return None
