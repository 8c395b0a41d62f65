from collections.abc import Callable, Iterable

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmpretrain.models import VisionTransformer
from torch import Tensor, nn

from ...errors import UserError
from ...models import ViTTM
from ...models.backbones.vittm import ViTTMLayer
from ...registry import HOOKS


@HOOKS.register_module()
class TrainingDynamicsHook(Hook):
    """Log the norms of the tokens, their updates and the gradients of a ViTTM or of mmpretrain's ViT by block.

    All backends of the visualizer (TensorBoard, W&B, …) get these scalars as ``<backbone>/<scalar>/block_i``:

    - ``process_norm``: norm of the process tokens after the ViT block, before the normalisation for the write;
    - ``memory_norm``: norm of the memory tokens after the block;
    - ``read_update``, ``write_update``: norm of the read or written tokens, relative to that of the tokens they update;
    - ``grad_norm``, ``read_head_grad_norm``, ``write_head_grad_norm``: norm of the gradients of the block and of its
      read and write heads, as the optimizer applies them: averaged over processes, unscaled and clipped.

    It also logs ``<backbone>/grad_norm/embeddings``. A ViT has ``process_norm`` and ``grad_norm`` only. Token norms are
    L2 norms, averaged over the images and tokens of the main process. The hook touches the model only in logged
    iterations. With gradient accumulation, it logs at the next optimizer step.

    Args:
        interval (int): Number of iterations between two logs. Defaults to 50.

    Raises:
        UserError: If ``interval`` is not positive, the model has neither, or its memory comes in chunks.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 50) -> None:
        if interval < 1:
            raise UserError(f'interval of TrainingDynamicsHook must be at least 1, not {interval}')
        self.interval = interval
        self._handles = []
        self._scalars: dict[str, Tensor] = {}
        self._stepped = False

    def before_train(self, runner: Runner) -> None:
        """Find the backbones of the model."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._backbones = {
            name: module for name, module in model.named_modules() if isinstance(module, (ViTTM, VisionTransformer))
        }
        if not self._backbones:
            raise UserError(
                'TrainingDynamicsHook found neither ViTTM nor VisionTransformer in the model: '
                'remove it from custom_hooks'
            )
        for name, backbone in self._backbones.items():
            if getattr(backbone, 'memory_chunk', None) is not None:
                raise UserError(
                    f'TrainingDynamicsHook needs all memory tokens of {name} at once, and memory_chunk is '
                    f'{backbone.memory_chunk}: leave one of them out'
                )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Register the forward hooks for a logged iteration."""
        if not self.every_n_train_iters(runner, self.interval) or self._handles or not is_main_process():
            return
        for name, backbone in self._backbones.items():
            for index, layer in enumerate(backbone.layers):
                for scalar, (module, measure) in _tokens_of(layer).items():
                    self._watch(module, f'{name}/{scalar}/block_{index:02d}', measure)
        # mmengine clears the gradients within the iteration, right after the step
        self._handles.append(runner.optim_wrapper.optimizer.register_step_pre_hook(self._on_step))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Log the scalars after the optimizer step, and remove the hooks from the model."""
        if not self._stepped:
            return
        for handle in self._handles:
            handle.remove()
        values = torch.stack([value.float() for value in self._scalars.values()]).tolist()  # one transfer
        runner.visualizer.add_scalars(dict(zip(self._scalars, values, strict=True)), step=runner.iter + 1)
        self._handles, self._scalars, self._stepped = [], {}, False

    def _watch(self, module: nn.Module, key: str, measure: Callable[[tuple, object], Tensor | None]) -> None:
        @torch.no_grad()
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            # Activation checkpointing calls again in the backward pass.
            if key not in self._scalars and (value := measure(inputs, output)) is not None:
                self._scalars[key] = value

        self._handles.append(module.register_forward_hook(hook))

    @torch.no_grad()
    def _on_step(self, *_: object) -> None:
        for name, backbone in self._backbones.items():
            embeddings = [module for child, module in backbone.named_children() if child.endswith('_embed')]
            groups = {f'{name}/grad_norm/embeddings': embeddings}
            for index, layer in enumerate(backbone.layers):
                groups[f'{name}/grad_norm/block_{index:02d}'] = [layer]
                for child, module in layer.named_children():
                    if child in ('read_head', 'write_head'):
                        groups[f'{name}/{child}_grad_norm/block_{index:02d}'] = [module]
            for key, modules in groups.items():
                if (norm := _grad_norm(modules)) is not None:
                    self._scalars[key] = norm
        self._stepped = True


def _tokens_of(layer: nn.Module) -> dict[str, tuple[nn.Module, Callable]]:
    """The modules of a block whose tokens are logged: scalar -> module and measure."""
    if not isinstance(layer, ViTTMLayer):
        return dict(process_norm=(layer, _norm_of_output))
    return dict(
        process_norm=(layer.vit_block, _norm_of_output),
        memory_norm=(layer.memory_block, _norm_of_output),
        read_update=(layer.read_head, _relative_update),
        write_update=(layer.write_head, _relative_update),
    )


def _token_norm(tokens: Tensor) -> Tensor:
    return torch.linalg.vector_norm(tokens.float(), dim=-1).mean()


def _norm_of_output(inputs: tuple, output: Tensor) -> Tensor:
    return _token_norm(output)


def _relative_update(inputs: tuple[Tensor, Tensor], output: Tensor) -> Tensor:
    target = inputs[1]  # the query of a read/write head
    return _token_norm(output) / _token_norm(target)


def _grad_norm(modules: Iterable[nn.Module]) -> Tensor | None:
    norms = [
        torch.linalg.vector_norm(parameter.grad.float())
        for module in modules
        for parameter in module.parameters()
        if parameter.grad is not None
    ]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else None
