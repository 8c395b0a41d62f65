import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from math import inf, prod
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.utils.checkpoint as cp
from huggingface_hub import PyTorchModelHubMixin
from mmcv.cnn.bricks.drop import build_dropout
from mmengine.model import BaseModule, ModuleList
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from mmpretrain.models.utils import build_norm_layer
from torch import Tensor, nn

from ...errors import UserError
from ...registry import FUSIONS, MEMORY_BLOCKS, MODELS, RW_HEADS, TOKEN_EMBEDS
from ..builder import build_component, drop_probability, is_per_token, positive_int, size_2d
from ..distance_attention import DistanceLayer, distance_bias
from ..fusions import Fusion
from ..memory_blocks import MemoryBlock
from ..rw_heads import RWHead
from ..streams import OUT_STREAMS, Grid, Grids, Streams, merge_regions, split_regions, tokens_to_map
from ..token_embeds import TokenEmbed, resample_pos_embed


class ViTTMLayer(BaseModule):
    """One block of a ViTTM: read, ViT block, write (ViTTM paper).

    One LayerNorm before the read and one before the write serve both streams; their outputs replace the streams.

    Args:
        vit_block (TransformerEncoderLayer): ViT block of the process tokens.
        read_head (RWHead): From memory to process tokens.
        write_head (RWHead): From process to memory tokens.
        memory_block (MemoryBlock): Processing of the memory around the write.
        norm_cfg (dict, optional): Config of the two LayerNorms. None for none.
        rw_drop_path_rate (float): Stochastic depth of the read and of the write.
    """

    def __init__(
        self,
        vit_block: TransformerEncoderLayer,
        read_head: RWHead,
        write_head: RWHead,
        memory_block: MemoryBlock,
        norm_cfg: dict | None,
        rw_drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.read_norm = _build_norm(norm_cfg, vit_block.embed_dims)
        self.read_head = read_head
        self.vit_block = vit_block
        self.write_norm = _build_norm(norm_cfg, vit_block.embed_dims)
        self.write_head = write_head
        self.memory_block = memory_block
        self.drop_path = build_dropout(dict(type='DropPath', drop_prob=rw_drop_path_rate))

    def forward(
        self,
        streams: Streams,
        read_fusion: Fusion,
        write_fusion: Fusion,
        write: bool = True,
        regions: int = 1,
        bias: Tensor | None = None,
    ) -> Streams:
        """Run the block.

        Args:
            streams (Streams): Process tokens ``(B, Np, C)`` and memory tokens ``(B, Nm, C)``, where B is the number of
                images times that of the regions of an image.
            read_fusion (Fusion): Combines process tokens and read.
            write_fusion (Fusion): Combines memory tokens and write.
            write (bool): False skips the write and leaves the memory as the read saw it, for a last block whose memory
                no output depends on.
            regions (int): Regions whose process tokens the ViT block sees together.
            bias (Tensor, optional): Bias of the attention logits ``(num_heads, Np, Np)``, for :class:`DistanceLayer`.

        Returns:
            Streams: Process and memory tokens after the block, of the same shapes.
        """
        process, memory = self.read_norm(streams.process), self.read_norm(streams.memory)
        process = read_fusion(process, self.drop_path(self.read_head(memory, process)))
        process = self.write_norm(self._attend(process, regions, bias))
        if not write:
            return Streams(process, memory)
        return Streams(process, self.write(memory, lambda query: self.write_head(process, query), write_fusion))

    def _attend(self, process: Tensor, regions: int, bias: Tensor | None) -> Tensor:
        """Run the ViT block on the process tokens of ``regions`` regions together."""
        args = () if bias is None else (bias,)
        if regions == 1:
            return self.vit_block(process, *args)
        return self.vit_block(process.unflatten(0, (-1, regions)).flatten(1, 2), *args).reshape(process.shape)

    def write(self, memory: Tensor, head: Callable[[Tensor], Tensor], write_fusion: Fusion) -> Tensor:
        """Write to memory tokens ``(B, N, C)``; ``head`` computes the update of its queries."""
        skip = self.write_norm(memory)
        memory = self.memory_block.before_write(skip)
        memory = write_fusion(memory, self.drop_path(head(memory)))
        return self.memory_block(memory, skip)

    def forward_chunks(
        self,
        process: Tensor,
        chunks: list[Tensor],
        read_fusion: Fusion,
        write_fusion: Fusion,
        write: bool = True,
        regions: int = 1,
        bias: Tensor | None = None,
        with_cp: bool = False,
    ) -> Tensor:
        """Run the block on memory that comes in chunks, one chunk at a time.

        The numbers are those of :meth:`forward` up to rounding. With gradients, the activations of each chunk are
        checkpointed, and with ``with_cp`` those of the ViT block.

        Args:
            process (Tensor): Process tokens ``(B, Np, C)``.
            chunks (list[Tensor]): Memory tokens ``(B, N, C)``, replaced by those after the block; without gradients,
                in their own storage.
            read_fusion (Fusion): As in :meth:`forward`.
            write_fusion (Fusion): As in :meth:`forward`.
            write (bool): As in :meth:`forward`.
            regions (int): As in :meth:`forward`.
            bias (Tensor, optional): As in :meth:`forward`.
            with_cp (bool): Whether to checkpoint the ViT block too.

        Returns:
            Tensor: Process tokens after the block.
        """

        def read(chunk: Tensor) -> Any:
            return self.read_head.summarize(self.read_norm(chunk))

        def write_to(chunk: Tensor) -> Tensor:
            return self.write(self.read_norm(chunk), head, write_fusion)

        process = self.read_norm(process)
        memory = self.read_head.merge([_checkpointed(read, chunk) for chunk in chunks])
        process = read_fusion(process, self.drop_path(self.read_head.update(memory, process)))
        attend = partial(_checkpointed, self._attend) if with_cp else self._attend
        process = self.write_norm(attend(process, regions, bias))
        if write:
            head = partial(self.write_head.update, self.write_head.summarize(process))
            for index, chunk in enumerate(chunks):
                written = _checkpointed(write_to, chunk)
                # in place: tokens that are freed chunk by chunk would leave gaps that the allocator cannot use
                chunks[index] = written if torch.is_grad_enabled() else chunk.copy_(written)
        return process


def _build_norm(cfg: dict | None, embed_dims: int) -> nn.Module:
    return build_norm_layer(cfg, embed_dims) if cfg else nn.Identity()


def _checkpointed(function: Callable, *args: Any) -> Any:
    return cp.checkpoint(function, *args, use_reentrant=False) if torch.is_grad_enabled() else function(*args)


def _with_names(value: Any) -> Any:
    """Replace classes in an argument by the names that they are registered under: JSON cannot hold classes."""
    if isinstance(value, dict):
        return {key: _with_names(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_names(each) for each in value]
    if not isinstance(value, type):
        return value
    names = (registry.module_dict.items() for registry in (TOKEN_EMBEDS, RW_HEADS, FUSIONS, MEMORY_BLOCKS))
    return next((name for name, cls in chain.from_iterable(names) if cls is value), value.__name__)


@MODELS.register_module()
class ViTTM(
    BaseModule,
    PyTorchModelHubMixin,
    library_name='mmvittm',
    license='apache-2.0',
    repo_url='https://github.com/mmvittm/mmvittm',
    coders={container: (_with_names, lambda stored: stored) for container in (dict, list, tuple)},
):
    """Vision Token Turing Machine.

    A PyTorch implementation of `Token Turing Machines are Efficient Vision Models
    <https://arxiv.org/abs/2409.07613>`_. Few process tokens pass through ViT blocks, many memory tokens never do; in
    every block, read and write heads move information between the two streams. The mathematics is in
    ``docs/method.md``.

    Args:
        arch (str | dict): 'tiny', 'small', 'base' or 'large', or a dict of ``embed_dims``, ``num_layers``,
            ``num_heads`` and ``feedforward_channels``.
        img_size (int | tuple[int, int]): Height and width in pixels that the position embeddings are made for. Images
            of other sizes work too, unless a head or fusion is built for a fixed number of tokens or ``rw_region`` does
            not divide their grids. Patches at the bottom and right are padded, so whole patches (``size_divisor`` of
            the data preprocessor) keep maps aligned.
        in_channels (int): Channels of the image.
        memory_embed (dict): Embedding of the memory tokens, from :data:`mmvittm.registry.TOKEN_EMBEDS`.
        process_embed (dict): Embedding of the process tokens, from the same registry.
        rw_head (dict): Read and write heads, from :data:`mmvittm.registry.RW_HEADS`.
        fusion (dict): Fusion of tokens and update, from :data:`mmvittm.registry.FUSIONS`.
        memory_block (dict | Sequence[dict | None], optional): Processing of the memory around a write, from
            :data:`mmvittm.registry.MEMORY_BLOCKS`; one for all blocks, or one for each. None for no processing.
        rw_region (tuple[int, int], optional): Rows and columns of the process tokens of a region. Process tokens read
            and write only the memory tokens of their own region. Not in the paper; see ``docs/high-resolution.md``.
            None for one region, the image.
        global_attention (bool): Whether process tokens attend to those of all regions; if not, the tokens of a region
            depend on nothing outside it.
        alibi_slopes (Sequence[float], optional): One for each head of the ViT blocks: their attention logits lose the
            slope times the distance between two process tokens (2D-ALiBi, arXiv 2311.00566), so that a model can be
            trained on windows of a scene. Not in the paper; see ``docs/high-resolution.md``. None for no distance.
        out_indices (int | Sequence[int]): Blocks to return the output of, counted from 0; negative ones from the end.
        out_stream (str | Sequence[str]): 'process', 'memory', 'concat' (the maps of both, on the channels and on the
            memory grid) or 'tokens' (both streams as tokens, for a classifier); one for all ``out_indices`` or one for
            each.
        qkv_bias (bool): Whether queries, keys and values of the ViT blocks have a bias.
        layer_scale_init_value (float): Initial layer scale of the ViT blocks (DeiT-III); 0 for none.
        drop_rate (float): Dropout after the position embeddings and in the ViT blocks.
        drop_path_rate (float): Stochastic depth of the last ViT block; it increases linearly from 0 over the blocks.
            Without ``global_attention`` it is drawn for each region.
        rw_drop_path_rate (float): Stochastic depth of every read and write, drawn for each region of ``rw_region``.
        norm_cfg (dict): Config of the LayerNorms outside of heads and memory blocks.
        stream_norms (bool): Whether both streams are normalised before reads and before writes, as in the paper.
        frozen_stages (int): 0 freezes the embeddings, n also the first n blocks, all blocks everything, -1 nothing. The
            weights of a fusion are shared by all blocks, so they train as long as one block does.
        with_cp (bool): Whether to checkpoint the activations of each block, to save memory in training; with
            ``memory_chunk``, those of the ViT blocks, since the chunks always are.
        memory_chunk (int, optional): Process the memory in chunks of this many tokens, to save memory on large images:
            besides the tokens themselves, the activations of one chunk are held at a time, in training too. Needs
            components that treat memory tokens independently, and ``rw_drop_path_rate=0``.
        init_cfg (dict, optional): Initialisation config, for instance ``dict(type='Pretrained', checkpoint=…)``.

    ``save_pretrained(folder)`` writes ``config.json`` and ``model.safetensors``; ``from_pretrained`` reads them from a
    folder or the Hugging Face Hub, and takes arguments to override. It returns the model in eval mode,
    and refuses weights that are not complete or do not fit.

    Parameters behind the last output stay in the model, so that a checkpoint fits every choice of outputs; they are
    frozen, and ``forward`` skips them.

    Raises:
        UserError: If a value is unknown or out of range.
    """

    num_extra_tokens = 0  # no class token; mmpretrain's tools ask
    arch_zoo = dict(
        tiny=dict(embed_dims=192, num_layers=12, num_heads=3, feedforward_channels=768),
        small=dict(embed_dims=384, num_layers=12, num_heads=6, feedforward_channels=1536),
        base=dict(embed_dims=768, num_layers=12, num_heads=12, feedforward_channels=3072),
        large=dict(embed_dims=1024, num_layers=24, num_heads=16, feedforward_channels=4096),
    )

    def __init__(
        self,
        arch: str | dict = 'base',
        img_size: int | tuple[int, int] = 224,
        in_channels: int = 3,
        memory_embed: dict = dict(type='PatchTokens', patch_size=28),
        process_embed: dict = dict(type='PatchTokens', patch_size=28),
        rw_head: dict = dict(type='LinearAttention', latent_ratio=4),
        fusion: dict = dict(type='AddFusion'),
        memory_block: dict | Sequence[dict | None] | None = None,
        rw_region: tuple[int, int] | None = None,
        global_attention: bool = True,
        alibi_slopes: Sequence[float] | None = None,
        out_indices: int | Sequence[int] = -1,
        out_stream: str | Sequence[str] = 'process',
        qkv_bias: bool = True,
        layer_scale_init_value: float = 0.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        rw_drop_path_rate: float = 0.0,
        norm_cfg: dict = dict(type='LN', eps=1e-6),
        stream_norms: bool = True,
        frozen_stages: int = -1,
        with_cp: bool = False,
        memory_chunk: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        arch = self._arch_settings(arch)
        self.embed_dims = arch['embed_dims']
        self.num_layers = arch['num_layers']
        self.img_size = size_2d('img_size', img_size)
        self.out_indices = self._checked_out_indices(out_indices)
        self.out_stream = self._checked_out_stream(out_stream)
        if type(frozen_stages) is not int or not -1 <= frozen_stages <= self.num_layers:
            raise UserError(f'frozen_stages={frozen_stages!r} is not a whole number within -1 … {self.num_layers}')
        self.frozen_stages = frozen_stages
        if not isinstance(layer_scale_init_value, (int, float)) or not 0 <= layer_scale_init_value < inf:
            raise UserError(f'layer_scale_init_value must be a number of 0 or more, not {layer_scale_init_value!r}')
        if not isinstance(norm_cfg, dict) or 'type' not in norm_cfg:
            raise UserError(
                f"norm_cfg must be a dict such as dict(type='LN'), not {norm_cfg!r}; stream_norms=False leaves out the "
                'norms of the streams'
            )
        self.with_cp = with_cp
        self.memory_chunk = memory_chunk if memory_chunk is None else positive_int('memory_chunk', memory_chunk)
        self.rw_region = rw_region if rw_region is None else size_2d('rw_region', rw_region)
        if rw_region is None and not global_attention:
            raise UserError('global_attention=False keeps attention within regions, but rw_region is None: give both')
        self.global_attention = global_attention
        self.alibi_slopes = self._checked_slopes(alibi_slopes, arch['num_heads'])

        embed_args = dict(in_channels=in_channels, embed_dims=self.embed_dims, img_size=self.img_size)
        self.memory_embed = build_component(TOKEN_EMBEDS, TokenEmbed, memory_embed, **embed_args)
        self.process_embed = build_component(TOKEN_EMBEDS, TokenEmbed, process_embed, **embed_args)
        if not (self.memory_embed.from_image or self.process_embed.from_image):
            raise UserError(
                f'neither memory_embed {type(self.memory_embed).__name__} nor process_embed '
                f'{type(self.process_embed).__name__} starts from the image: choose PatchTokens for one of them'
            )
        self.drop_after_pos = nn.Dropout(drop_probability('drop_rate', drop_rate))

        process_tokens = prod(self.process_embed.grid_for(self.memory_embed.grid))
        memory_tokens = prod(self.memory_embed.grid_for(self.process_embed.grid))
        self._built_for = process_tokens, memory_tokens
        build_fusion = partial(build_component, FUSIONS, Fusion, fusion, embed_dims=self.embed_dims)
        self.read_fusion = build_fusion(target_tokens=process_tokens)
        self.write_fusion = build_fusion(target_tokens=memory_tokens)
        build_head = partial(
            build_component, RW_HEADS, RWHead, rw_head, embed_dims=self.embed_dims, num_heads=arch['num_heads']
        )
        block_type = TransformerEncoderLayer if alibi_slopes is None else DistanceLayer
        drop_probability('rw_drop_path_rate', rw_drop_path_rate)
        drop_path_rates = np.linspace(0, drop_probability('drop_path_rate', drop_path_rate), self.num_layers).tolist()
        memory_blocks = [cfg or dict(type='MemoryBlock') for cfg in self._one_per_block(memory_block)]
        self.layers = ModuleList(
            ViTTMLayer(
                vit_block=block_type(
                    embed_dims=self.embed_dims,
                    num_heads=arch['num_heads'],
                    feedforward_channels=arch['feedforward_channels'],
                    layer_scale_init_value=layer_scale_init_value,
                    drop_rate=drop_rate,
                    drop_path_rate=block_drop_path_rate,
                    qkv_bias=qkv_bias,
                    norm_cfg=norm_cfg,
                ),
                read_head=build_head(source_tokens=memory_tokens, query_tokens=process_tokens),
                write_head=build_head(source_tokens=process_tokens, query_tokens=memory_tokens),
                memory_block=build_component(MEMORY_BLOCKS, MemoryBlock, block_cfg, embed_dims=self.embed_dims),
                norm_cfg=norm_cfg if stream_norms else None,
                rw_drop_path_rate=rw_drop_path_rate,
            )
            for block_drop_path_rate, block_cfg in zip(drop_path_rates, memory_blocks, strict=True)
        )
        self.process_norm = build_norm_layer(norm_cfg, self.embed_dims)

        self._outputs = tuple(zip(self.out_indices, self.out_stream, strict=True))
        self._depth = max(self.out_indices) + 1
        self._memory_outputs = {index for index, stream in self._outputs if OUT_STREAMS[stream].uses_memory}
        self._writes_last = self._depth - 1 in self._memory_outputs
        if memory_chunk is not None:
            self._check_chunks(rw_drop_path_rate)
        if rw_region is not None:
            self._refuse_fixed_tokens()
        for module in (*self._unreachable(), *self._frozen()):
            module.requires_grad_(False)

    @classmethod
    def _load_as_safetensor(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        from ...weights.loading import load_weights  # that package imports the models
        from ...weights.mismatch import describe_mismatch

        config = Path(model_file).with_name('config.json')
        if not config.is_file():
            raise UserError(f'{config} is missing: save the model with save_pretrained, which writes both files')
        # The length of a stored position embedding does not tell its grid, so load into a model as it was saved first.
        with torch.device('meta'):
            stored = cls(**json.loads(config.read_text()))
        load_weights(stored.to_empty(device='cpu'), model_file)
        weights = stored.state_dict()
        for name in ('memory_embed', 'process_embed'):
            theirs, ours = getattr(stored, name), getattr(model, name)
            weights[f'{name}.pos_embed'] = resample_pos_embed(theirs.pos_embed, theirs.grid, ours.grid)
        if problem := describe_mismatch(model, weights):
            raise UserError(f'{model_file} does not fit the arguments given: {problem}')
        model.load_state_dict(weights)
        model._is_init = True  # or mmengine's Runner would draw the weights anew
        return model.to(map_location).eval()

    def _arch_settings(self, arch: str | dict) -> dict:
        if isinstance(arch, str):
            if arch not in self.arch_zoo:
                raise UserError(f'unknown arch {arch!r}: choose one of {", ".join(self.arch_zoo)}, or give a dict')
            return self.arch_zoo[arch]
        names = self.arch_zoo['base'].keys()
        if not isinstance(arch, dict) or arch.keys() != names:
            raise UserError(f'a custom arch is a dict of exactly {", ".join(names)}, not {arch!r}')
        for name, value in arch.items():
            positive_int(name, value)
        if arch['embed_dims'] % arch['num_heads']:
            raise UserError('num_heads={num_heads} does not divide embed_dims={embed_dims}'.format(**arch))
        return arch

    @staticmethod
    def _checked_slopes(slopes: Sequence[float] | None, num_heads: int) -> Sequence[float] | None:
        if slopes is None:
            return None
        if (
            not isinstance(slopes, (list, tuple))
            or len(slopes) != num_heads
            or not all(isinstance(slope, (int, float)) and 0 <= slope < inf for slope in slopes)
        ):
            raise UserError(f'alibi_slopes must be {num_heads} numbers of 0 or more, one for each head, not {slopes!r}')
        return slopes

    def _checked_out_indices(self, out_indices: int | Sequence[int]) -> tuple[int, ...]:
        indices = (out_indices,) if isinstance(out_indices, int) else out_indices
        if not isinstance(indices, (list, tuple)) or not all(type(index) is int for index in indices):
            raise UserError(f'out_indices must be whole numbers, not {out_indices!r}')
        for index in indices:
            if not -self.num_layers <= index < self.num_layers:
                raise UserError(f'out index {index} does not exist: the blocks are 0 … {self.num_layers - 1}')
        if not indices:
            raise UserError('out_indices is empty: name at least one block')
        return tuple(index % self.num_layers for index in indices)

    def _one_per_block(self, memory_block: dict | Sequence[dict | None] | None) -> Sequence[dict | None]:
        if not isinstance(memory_block, (list, tuple)):
            return [cast('dict | None', memory_block)] * self.num_layers
        if len(memory_block) != self.num_layers:
            raise UserError(
                f'memory_block lists {len(memory_block)} memory blocks for {self.num_layers} blocks: '
                'give one for all, or one or None for each'
            )
        return memory_block

    def _checked_out_stream(self, out_stream: str | Sequence[str]) -> tuple[str, ...]:
        streams = (out_stream,) * len(self.out_indices) if isinstance(out_stream, str) else out_stream
        if not isinstance(streams, (list, tuple)):
            raise UserError(f'out_stream must be one or several of {", ".join(OUT_STREAMS)}, not {out_stream!r}')
        if len(streams) != len(self.out_indices):
            raise UserError(
                f'out_stream names {len(streams)} streams for {len(self.out_indices)} out_indices: '
                'give one for all, or one for each'
            )
        for stream in streams:
            if stream not in tuple(OUT_STREAMS):  # a list has no hash
                raise UserError(f'unknown out_stream {stream!r}: choose one of {", ".join(OUT_STREAMS)}')
        return tuple(streams)

    def _unreachable(self) -> list[nn.Module]:
        """Modules that no output of ``forward`` depends on."""
        modules = [*self.layers[self._depth :]]
        if not any(OUT_STREAMS[stream].final_norm for stream in self.out_stream):
            modules.append(self.process_norm)
        if not self._writes_last:
            last = self.layers[self._depth - 1]
            modules += [last.write_head, last.memory_block]
            if self._depth == 1:
                modules.append(self.write_fusion)
        return modules

    def _frozen(self) -> list[nn.Module]:
        """Modules that ``frozen_stages`` keeps from training."""
        if self.frozen_stages < 0:
            return []
        frozen = [self.memory_embed, self.process_embed, self.drop_after_pos, *self.layers[: self.frozen_stages]]
        if self.frozen_stages == self.num_layers:
            frozen += [self.process_norm, self.read_fusion, self.write_fusion]
        return frozen

    def train(self, mode: bool = True) -> 'ViTTM':
        """Set the mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor | tuple[Tensor, Tensor], ...]:
        """Compute the outputs.

        Args:
            x (Tensor): Images ``(B, in_channels, H, W)``.

        Returns:
            tuple: For each out index, without a final norm, a map ``(B, C, H', W')`` on the grid of its stream, or
            ``(B, 2C, H', W')`` for 'concat'; for 'tokens' a tuple of process tokens ``(B, Np, C)`` after the final
            norm and memory tokens ``(B, Nm, C)``, which have none.

        Raises:
            UserError: If an image is smaller than a patch or has other channels, or its size does not fit ``rw_region``
                or a head or fusion of a fixed number of tokens.
        """
        streams, grids = self._embed(x)
        self._check_tokens(streams)
        regions = self.regions_of(grids)
        if regions != (1, 1):
            streams = Streams(*(split_regions(*each, regions) for each in zip(streams, grids, strict=True)))
        run_blocks = self._run_blocks if self.memory_chunk is None else self._run_blocks_in_chunks
        after = run_blocks(streams, regions, self.attention_bias(grids.process, regions))
        return tuple(self._output(stream, after[index], grids, regions) for index, stream in self._outputs)

    def regions_together(self, regions: Grid) -> int:
        """Return how many of an image's regions attend to each other."""
        return prod(regions) if self.global_attention else 1

    def attention_bias(self, grid: Grid, regions: Grid) -> Tensor | None:
        """Return the bias ``(num_heads, N, N)`` between process tokens on a grid, split into regions; None for none.

        N counts the tokens that attend to each other.
        """
        if self.alibi_slopes is None:
            return None
        if not self.global_attention:
            grid, regions = (grid[0] // regions[0], grid[1] // regions[1]), (1, 1)
        return distance_bias(grid, regions, self.alibi_slopes, like=self.memory_embed.pos_embed)

    def _embed(self, image: Tensor) -> tuple[Streams, Grids]:
        if image.ndim != 4 or not image.is_floating_point():
            given = f'{image.dtype} of shape {tuple(image.shape)}'
            raise UserError(f'images are floating-point numbers of shape (B, C, H, W), not {given}')
        if self.memory_embed.from_other_stream:
            process, process_grid = self.process_embed(image)
            memory, memory_grid = self.memory_embed(tokens_to_map(process, process_grid))
        else:
            memory, memory_grid = self.memory_embed(image)
            source = tokens_to_map(memory, memory_grid) if self.process_embed.from_other_stream else image
            process, process_grid = self.process_embed(source)
        return Streams(self.drop_after_pos(process), self.drop_after_pos(memory)), Grids(process_grid, memory_grid)

    def regions_of(self, grids: Grids) -> Grid:
        """Return how many regions of ``rw_region`` the grids have, from top to bottom and from left to right.

        Raises:
            UserError: If they do not divide both grids.
        """
        if self.rw_region is None:
            return 1, 1
        rows, columns = (max(1, tokens // step) for tokens, step in zip(grids.process, self.rw_region, strict=True))
        for process, memory, step, count in zip(*grids, self.rw_region, (rows, columns), strict=True):
            if process != step * count or memory % count:
                raise UserError(
                    f'regions of {self.rw_region[0]}×{self.rw_region[1]} process tokens do not divide grids of '
                    f'{grids.process[0]}×{grids.process[1]} process and {grids.memory[0]}×{grids.memory[1]} memory '
                    'tokens: choose another rw_region, or images of another size'
                )
        return rows, columns

    def _fixed_component(self) -> nn.Module | None:
        """The read/write head or fusion that is built for a fixed number of tokens, if there is one."""
        return next((part for part in (self.layers[0].read_head, self.read_fusion) if part.fixed_tokens), None)

    def _refuse_fixed_tokens(self) -> None:
        if fixed := self._fixed_component():
            raise UserError(
                f'rw_region does not work with {type(fixed).__name__}, whose number of tokens is fixed: leave one of '
                'them out'
            )

    def _check_tokens(self, streams: Streams) -> None:
        fixed, (process, memory) = self._fixed_component(), self._built_for
        given = streams.process.shape[1], streams.memory.shape[1]
        if fixed is not None and given != self._built_for:
            raise UserError(
                f'{type(fixed).__name__} is built for {process} process and {memory} memory tokens, and '
                f'the image has {given[0]} and {given[1]}: give images of {self.img_size[0]}×{self.img_size[1]}, or '
                'choose a read/write head and a fusion that take any number of tokens'
            )

    def _writes(self, index: int) -> bool:
        return index + 1 < self._depth or self._writes_last

    def _run_blocks(self, streams: Streams, regions: Grid, bias: Tensor | None) -> dict[int, Streams]:
        """Run the blocks; return the streams after those of ``out_indices``."""
        after, together = {}, self.regions_together(regions)
        for index in range(self._depth):
            run = self.layers[index]
            if self.with_cp and torch.is_grad_enabled():
                run = partial(cp.checkpoint, run, use_reentrant=False)
            streams = run(streams, self.read_fusion, self.write_fusion, self._writes(index), together, bias)
            if index in self.out_indices:
                after[index] = streams
        return after

    def _run_blocks_in_chunks(self, streams: Streams, regions: Grid, bias: Tensor | None) -> dict[int, Streams]:
        """Do the same with memory in chunks; where no output depends on the memory, the result has none."""
        after, together = {}, self.regions_together(regions)
        chunk = cast(int, self.memory_chunk)
        memory = streams.memory if torch.is_grad_enabled() else streams.memory.clone()  # it may be a parameter
        process, chunks = streams.process, list(memory.split(max(1, chunk // prod(regions)), 1))
        for index in range(self._depth):
            layer = self.layers[index]
            process = layer.forward_chunks(
                process, chunks, self.read_fusion, self.write_fusion, self._writes(index), together, bias, self.with_cp
            )
            if index in self.out_indices:
                wanted = chunks if index in self._memory_outputs else [streams.memory[:, :0]]
                after[index] = Streams(process, torch.cat(wanted, 1))
        return after

    @property
    def mixing_component(self) -> nn.Module | None:
        """The first component that may mix memory tokens, which cannot run in chunks; None if there is none."""
        components = self.layers[0].write_head, self.write_fusion, *(layer.memory_block for layer in self.layers)
        return next((component for component in components if not is_per_token(component)), None)

    def _check_chunks(self, rw_drop_path_rate: float) -> None:
        """Refuse what couples memory tokens across chunks."""
        if mixing := self.mixing_component:
            raise UserError(
                f'memory_chunk does not work with {type(mixing).__name__}, which may mix the memory tokens: leave '
                'one of them out, or set per_token = True in a class that treats each by itself'
            )
        if rw_drop_path_rate:
            raise UserError('memory_chunk would drop the writes of each chunk separately: set rw_drop_path_rate=0')

    def _output(self, stream: str, streams: Streams, grids: Grids, regions: Grid) -> Tensor | tuple[Tensor, Tensor]:
        out = OUT_STREAMS[stream]
        if regions != (1, 1):
            process = merge_regions(streams.process, grids.process, regions)
            memory = merge_regions(streams.memory, grids.memory, regions) if out.uses_memory else streams.memory
            streams = Streams(process, memory)
        if out.final_norm:
            streams = Streams(self.process_norm(streams.process), streams.memory)
        return out.make(streams, grids)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Get the depth of a parameter, for layer-wise learning-rate decay (mmpretrain's interface).

        Args:
            param_name (str): Name of the parameter in the whole model.
            prefix (str): Prefix of the backbone's parameters, for instance ``'backbone.'``.

        Returns:
            tuple[int, int]: The depth and the number of depths. The depth is 0 for both token embeddings, i + 1 for
            block i, and the last for everything after or shared by the blocks.
        """
        last = self.num_layers + 1
        name = param_name.removeprefix(prefix)
        if not param_name.startswith(prefix):
            depth = last
        elif name.startswith(('memory_embed.', 'process_embed.')):
            depth = 0
        else:
            depth = int(name.split('.')[1]) + 1 if name.startswith('layers.') else last
        return depth, last + 1
