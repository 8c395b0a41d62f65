"""Registries of mmvittm.

Those of the first group are children of mmengine's root registries, so ``type='mmvittm.X'`` resolves in any scope.
Those of the second group hold the modules of a ViTTM. Register your own read/write head there to use it in a config.
"""

from collections.abc import Mapping
from functools import partial

from mmengine import registry as root

_Registry = partial(root.Registry, scope='mmvittm')

MODELS = _Registry('model', parent=root.MODELS, locations=['mmvittm.models'])
DATASETS = _Registry('dataset', parent=root.DATASETS, locations=['mmvittm.datasets'])
DATA_SAMPLERS = _Registry('data sampler', parent=root.DATA_SAMPLERS, locations=['mmvittm.datasets'])
TRANSFORMS = _Registry('transform', parent=root.TRANSFORMS, locations=['mmvittm.datasets'])
METRICS = _Registry('metric', parent=root.METRICS, locations=['mmvittm.evaluation'])
HOOKS = _Registry('hook', parent=root.HOOKS, locations=['mmvittm.engine'])
LOOPS = _Registry('loop', parent=root.LOOPS, locations=['mmvittm.engine'])
OPTIM_WRAPPERS = _Registry('optim wrapper', parent=root.OPTIM_WRAPPERS, locations=['mmvittm.engine'])
OPTIM_WRAPPER_CONSTRUCTORS = _Registry(
    'optim wrapper constructor', parent=root.OPTIM_WRAPPER_CONSTRUCTORS, locations=['mmvittm.engine']
)
STRATEGIES = _Registry('strategy', parent=root.STRATEGIES, locations=['mmvittm.engine'])
FUNCTIONS = _Registry('function', parent=root.FUNCTIONS, locations=['mmvittm.engine'])

TOKEN_EMBEDS = _Registry('token embedding', locations=['mmvittm.models'])
RW_HEADS = _Registry('read/write head', locations=['mmvittm.models'])
FUSIONS = _Registry('fusion', locations=['mmvittm.models'])
MEMORY_BLOCKS = _Registry('memory block', locations=['mmvittm.models'])


def type_name(node: Mapping, key: str = 'type') -> str:
    """Return the name of a config's type, which may be a string or, in mmengine's Python style, a class; '' if none."""
    kind = node.get(key) or ''
    return kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))
