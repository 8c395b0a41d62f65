"""Registries of mmvittm.

Those of the first group are children of mmengine's root registries, so ``type='mmvittm.X'`` resolves in any scope.
Those of the second group hold the modules of a ViTTM. Register your own read/write head there to use it in a config.
"""

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import FUNCTIONS as MMENGINE_FUNCTIONS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import STRATEGIES as MMENGINE_STRATEGIES
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmvittm', locations=['mmvittm.models'])
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, scope='mmvittm', locations=['mmvittm.datasets'])
DATA_SAMPLERS = Registry('data sampler', parent=MMENGINE_DATA_SAMPLERS, scope='mmvittm', locations=['mmvittm.datasets'])
TRANSFORMS = Registry('transform', parent=MMENGINE_TRANSFORMS, scope='mmvittm', locations=['mmvittm.datasets'])
METRICS = Registry('metric', parent=MMENGINE_METRICS, scope='mmvittm', locations=['mmvittm.evaluation'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmvittm', locations=['mmvittm.engine'])
LOOPS = Registry('loop', parent=MMENGINE_LOOPS, scope='mmvittm', locations=['mmvittm.engine'])
OPTIM_WRAPPERS = Registry(
    'optim wrapper', parent=MMENGINE_OPTIM_WRAPPERS, scope='mmvittm', locations=['mmvittm.engine']
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optim wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmvittm',
    locations=['mmvittm.engine'],
)
STRATEGIES = Registry('strategy', parent=MMENGINE_STRATEGIES, scope='mmvittm', locations=['mmvittm.engine'])
FUNCTIONS = Registry('function', parent=MMENGINE_FUNCTIONS, scope='mmvittm', locations=['mmvittm.engine'])

TOKEN_EMBEDS = Registry('token embedding', scope='mmvittm', locations=['mmvittm.models'])
RW_HEADS = Registry('read/write head', scope='mmvittm', locations=['mmvittm.models'])
FUSIONS = Registry('fusion', scope='mmvittm', locations=['mmvittm.models'])
MEMORY_BLOCKS = Registry('memory block', scope='mmvittm', locations=['mmvittm.models'])
