"""Check the files of a config's data sets before training or testing starts."""

import inspect
import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset, Compose
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from ..errors import UserError, error_text
from .config_errors import explain_config_errors, find_class, in_scope

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.ppm', '.tif', '.tiff')


def check_data(cfg: Config, *loaders: str) -> None:
    """Check that the data sets of ``loaders`` exist, take all images of their folders and have all annotations.

    Images with another suffix than the data set's are reported in a warning. Data sets that download themselves or lie
    on a server, and those of classes that are not mmengine's, are not checked.

    Args:
        cfg (Config): The config. Its ``data_help`` says how to get the data.
        *loaders (str): Names such as ``'train_dataloader'``. Loaders that the config does not have are ignored.

    Raises:
        UserError: If a folder is missing or empty, images lack their annotation, or the data set would pass over an
            image.
    """
    for loader in filter(cfg.get, loaders):
        for dataset in innermost_datasets(cfg[loader].dataset):
            with explain_config_errors(cfg), in_scope(cfg):
                problem = _problem(dataset)
            if problem:
                raise UserError(f'{loader}: {problem}; {cfg.get("data_help", "check data_root and data_prefix")}')


def check_distinct_names(dataset: BaseDataset) -> None:
    """Raise a :class:`UserError` if two images have the same name, so that one prediction would overwrite the other."""
    paths = [Path(dataset.get_data_info(index).get('img_path', str(index))) for index in range(len(dataset))]
    repeated = {name for name, number in Counter(path.stem for path in paths).items() if number > 1}
    if alike := [path for path in paths if path.stem in repeated]:
        raise UserError(
            f'predictions are saved by the name of their image, and {len(alike)} images share names, such as '
            f'{alike[0]} and {next(path for path in alike[1:] if path.stem == alike[0].stem)}: rename them'
        )


def innermost_datasets(dataset: dict) -> Iterator[dict]:
    """Yield the data sets inside wrappers such as ``RepeatDataset`` and ``ConcatDataset``."""
    inner = dataset.get('datasets') or ([dataset['dataset']] if 'dataset' in dataset else [])
    if not inner:
        yield dataset
    for each in inner:
        yield from innermost_datasets(each)


def build_unloaded(dataset: dict) -> BaseDataset | None:
    """Build a data set that lists no files yet; None for a class that is not derived from mmengine's BaseDataset."""
    with DATASETS.switch_scope_and_registry(dataset.get('_scope_')) as registry:
        cls = find_class(dataset.get('type'), registry)
    if inspect.isclass(cls) and not issubclass(cls, BaseDataset):
        return None
    return DATASETS.build({**dataset, 'lazy_init': True, 'pipeline': []})


def read_label_map(entry: dict, num_classes: int) -> np.ndarray:
    """Read the label map of a data set's entry as training does, in the scope of mmseg.

    Args:
        entry (dict): ``seg_map_path``, ``label_map``, ``reduce_zero_label`` and ``seg_fields``.
        num_classes (int): Number of classes.

    Returns:
        np.ndarray: Labels ``(H, W)``; 255 is no class.

    Raises:
        UserError: If it cannot be read or has other labels.
    """
    steps = Compose([dict(type='LoadAnnotations'), dict(type='mmvittm.CheckLabels', num_classes=num_classes)])
    try:
        return steps(dict(entry))['gt_seg_map']
    except (OSError, ValueError) as error:
        raise UserError(f'label map {entry["seg_map_path"]} cannot be read: {error_text(error)}') from error


def _problem(dataset: dict) -> str | None:
    built = build_unloaded(dataset)
    if built is None:
        return None
    elsewhere = (dataset.get('backend_args') or {}).get('backend', 'local') != 'local'
    if elsewhere or '://' in str(dataset.get('data_root')) or getattr(built, 'download', False):
        return None
    root = Path(dataset.get('data_root') or '')
    prefixes = dataset.get('data_prefix') or {}
    prefixes = {'img_path': prefixes} if isinstance(prefixes, str) else prefixes
    folders = {name: root / prefix for name, prefix in prefixes.items() if prefix is not None}
    for folder in (root, *folders.values()):
        if not folder.is_dir():
            return f'data set folder not found: {folder}'
        if next(folder.iterdir(), None) is None:
            return f'data set folder {folder} is empty'
    if 'img_path' not in folders:
        return None
    passed_over = None if dataset.get('ann_file') else _passed_over(built, folders)
    return passed_over or (_missing(built, folders) if hasattr(built, 'img_suffix') else None)


def _missing(dataset: BaseDataset, folders: dict[str, Path]) -> str | None:
    """Describe the files that a data set of MMSegmentation lists and that do not exist."""
    samples = dataset.load_data_list()
    if not samples:
        return f'data set folder {folders["img_path"]} has no *{dataset.img_suffix} images'
    for key, kind in dict(img_path='files', seg_map_path='annotation').items():
        paths = [sample[key] for sample in samples if sample.get(key)]
        if missing := [path for path in paths if not Path(path).is_file()]:
            return (
                f'{len(missing)} of {len(samples)} images in {folders["img_path"]} have no {kind}, '
                f'the first is {missing[0]}'
            )
    return None


def _passed_over(dataset: BaseDataset, folders: dict[str, Path]) -> str | None:
    """Describe the images in the folders of a data set that it would pass over without a word."""
    suffixes = (dataset.img_suffix,) if hasattr(dataset, 'img_suffix') else getattr(dataset, 'extensions', ())
    if not suffixes:
        return None
    lower = tuple(suffix.lower() for suffix in suffixes)
    case_matters = hasattr(dataset, 'img_suffix')
    # images and label maps may share a folder
    others = (dataset.seg_map_suffix,) if folders['img_path'] == folders.get('seg_map_path') else ()
    unlike = []
    for entry in _entries(folders['img_path']):
        name = entry.name.lower()
        if not name.endswith((*lower, *IMAGE_SUFFIXES)) or entry.name.endswith(others):
            continue
        if not Path(entry.path).is_file():
            return f'{entry.path} is {_kind(entry)}, not an image'
        if not name.endswith(lower):
            unlike.append(entry.path)
        elif case_matters and not entry.name.endswith(suffixes):
            return f'{entry.path} would be passed over, since its suffix is not {suffixes[0]}: rename it'
    if unlike:
        message = f'{len(unlike)} images in {folders["img_path"]}, such as {unlike[0]}, are passed over, since their '
        print_log(f'{message}suffix is not {" or ".join(sorted(suffixes))}', 'current', logging.WARNING)
    return None


def _entries(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[os.DirEntry]:
    """Yield what is in ``folder`` and its folders, without hidden files, as the data sets do."""
    above = (*above, folder.resolve())
    for entry in os.scandir(folder):
        if Path(entry.path).is_dir():  # False for a link to itself, where entry.is_dir() raises an error
            if entry.is_symlink() and Path(entry.path).resolve() in above:
                raise UserError(f'{entry.path} is a link to a folder around it: remove it')
            yield from _entries(Path(entry.path), above)
        if not entry.name.startswith('.'):
            yield entry


def _kind(entry: os.DirEntry) -> str:
    return 'a broken link' if entry.is_symlink() else 'a folder' if entry.is_dir() else 'a special file'
