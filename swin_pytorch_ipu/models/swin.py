"""Swin Transformer for image classification (Liu et al. 2021, arXiv:2103.14030).

Tensors have the names of the official checkpoints. Geometry, which those keep as buffers, follows from the config
here and is not saved.

Shape letters: B batch, H and W rows and columns of a stage's map, D its width, M width of its MLP, G heads, C classes.
Maps are (B, H, W, D) inside.
"""

from __future__ import annotations

import difflib
from dataclasses import fields
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.attention import Attention
from models.drop_path import DropPath
from models.patches import PatchEmbedding, PatchMerging
from models.swin_config import SwinConfig
from models.windows import (
    Windows,
    attention_mask,
    join_heads,
    relative_position_index,
    shift,
    split_heads,
    unshift,
    windows_of,
)


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows, with relative position bias, (B, H, W, D) -> (B, H, W, D)."""

    relative_position_index: Tensor
    mask: Optional[Tensor]

    def __init__(self, config: SwinConfig, stage: int, windows: Windows) -> None:
        super().__init__()
        width, self.heads = config.widths[stage], config.num_heads[stage]
        self.windows = windows
        offsets = (2 * windows.window[0] - 1) * (2 * windows.window[1] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets, self.heads))
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        scale = (width // self.heads) ** -0.5 if config.qk_scale is None else config.qk_scale
        self.attention = Attention(scale, config.attention_dropout)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)
        index = relative_position_index(windows.window)
        self.register_buffer("relative_position_index", index, persistent=False)
        masked = any(windows.shift) or any(windows.padding)
        self.register_buffer("mask", attention_mask(windows) if masked else None, persistent=False)

    def bias(self) -> Tensor:
        """What is added to the scores: relative position bias and mask, (nH·nW·G, N, N)."""
        index = self.relative_position_index
        bias = self.relative_position_bias_table[index.flatten()].reshape(*index.shape, -1)  # (N, N, G)
        bias = bias.permute(2, 0, 1)
        down, right = self.windows.counts
        if self.mask is None:
            return bias.repeat(down * right, 1, 1)
        return (bias + self.mask[:, None]).flatten(0, 1)  # (nH·nW, G, N, N) -> (nH·nW·G, N, N)

    def project(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Queries, keys and values in windows, (B, H, W, D) -> three (B, nH·nW·G, N, D/G)."""
        # Three times the copy of a third: going back, their gradients are put together in one.
        parts = self.qkv(shift(x, self.windows)).chunk(3, dim=-1)
        return tuple(split_heads(part, self.windows, self.heads) for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        """Let every token gather from those of its window."""
        q, k, v = self.project(x)
        x = self.attention(q, k, v, self.bias())
        x = unshift(join_heads(x, self.windows, self.heads), self.windows)
        return self.dropout(self.proj(x))


class Mlp(nn.Module):
    """Two linear layers with the erf GELU between them, (…, D) -> (…, M) -> (…, D)."""

    def __init__(self, config: SwinConfig, width: int) -> None:
        super().__init__()
        hidden = int(config.mlp_ratio * width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token by itself."""
        return self.dropout(self.fc2(self.dropout(F.gelu(self.fc1(x)))))


class Block(nn.Module):
    """Attention in windows, then an MLP, each behind a LayerNorm in a residual, (B, H, W, D) -> (B, H, W, D)."""

    def __init__(self, config: SwinConfig, stage: int, index: int) -> None:
        super().__init__()
        width = config.widths[stage]
        windows = windows_of(config.resolutions[stage], config.window_size, shifted=index % 2 == 1)
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attn = WindowAttention(config, stage, windows)
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = Mlp(config, width)
        self.drop_path = DropPath(config.drop_paths[stage][index])

    def forward(self, x: Tensor) -> Tensor:
        """Apply both branches."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """Blocks of one resolution; `downsample` leads to the next stage, None in the last."""

    def __init__(self, config: SwinConfig, stage: int) -> None:
        super().__init__()
        self.recompute = config.checkpoint_blocks
        self.blocks = nn.ModuleList(Block(config, stage, index) for index in range(config.depths[stage]))
        is_last = stage == len(config.depths) - 1
        self.downsample = None if is_last else PatchMerging(config.widths[stage], config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the blocks, (B, H, W, D) -> (B, H, W, D)."""
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.recompute and self.training else block(x)
        return x


class SwinTransformer(nn.Module):
    """Images to class logits; `patch_embed`, each block and `head` may sit on different devices."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbedding(config)
        if config.absolute_positions:
            rows, columns = config.resolutions[0]
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, rows * columns, config.embed_dim))
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Stage(config, stage) for stage in range(len(config.depths)))
        width = config.widths[-1]
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.head = nn.Linear(width, config.num_classes) if config.num_classes else nn.Identity()
        self._initialise()

    @property
    def stages(self) -> List[Stage]:
        """The stages, first to last."""
        return [cast(Stage, stage) for stage in self.layers]

    @property
    def blocks(self) -> List[Block]:
        """The blocks of all stages, first to last."""
        return [cast(Block, block) for stage in self.stages for block in stage.blocks]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of normalised images (B, channels, height, width); features (B, D) without a head."""
        *_, x = self._maps(images)
        return self.head(self.norm(x).flatten(1, 2).mean(dim=1))  # (B, H, W, D) -> (B, D)

    def forward_features(self, images: Tensor) -> List[Tensor]:
        """What each stage's last block puts out, (B, channels, height, width) -> a (B, D, H, W) per stage."""
        return [x.permute(0, 3, 1, 2) for x in self._maps(images)]

    def _maps(self, images: Tensor) -> Iterator[Tensor]:
        x = self.patch_embed(images)
        if self.config.absolute_positions:
            x = x + self.absolute_pos_embed.reshape(1, *self.config.resolutions[0], -1)
        x = self.dropout(x)
        for stage in self.stages:
            x = stage(x)
            yield x
            if stage.downsample is not None:
                x = stage.downsample(x)

    @torch.no_grad()
    def reset_head(self) -> None:
        """Draw the head's weights anew from N(0, 0.02), its bias becomes 0."""
        if isinstance(self.head, nn.Linear):
            _initialise_linear(self.head)

    @torch.no_grad()
    def _initialise(self) -> None:
        """The paper's code draws from N(0, 0.02), but for the convolution, which has torch's own distribution."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                _initialise_linear(module)
            elif isinstance(module, WindowAttention):
                nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)
        if self.config.absolute_positions:
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)


def _initialise_linear(layer: nn.Linear) -> None:
    nn.init.trunc_normal_(layer.weight, std=0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


_VARIANTS: Dict[str, Dict[str, Any]] = {
    "tiny": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "small": {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "base": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
    "large": {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)},
}
_SHAPES = {"patch4_window7_224": ((224, 224), (7, 7)), "patch4_window12_384": ((384, 384), (12, 12))}
SIZES: Dict[str, Dict[str, Any]] = {
    f"swin_{variant}_{shape}": {**sizes, "image_size": image, "window_size": window}
    for variant, sizes in _VARIANTS.items()
    for shape, (image, window) in _SHAPES.items()
}
"""Fields of SwinConfig by model name."""
SIZES.update({f"{name}_22k": {**sizes, "num_classes": 21841} for name, sizes in SIZES.items()})


def create_model(name: str, **sizes: Any) -> SwinTransformer:
    """Build the Swin Transformer `name` of SIZES with fresh weights.

    Args:
        name: a key of SIZES; swin_<variant>_patch4_window<w>_<pixels>, with _22k for the 21,841 classes.
        sizes: fields of SwinConfig to set otherwise than `name` has them; image_size and window_size may be one number
            for both sides.

    Raises:
        ValueError: unknown name or size, or sizes that do not go together.
    """
    if name not in SIZES:
        raise ValueError(f"unknown model {name!r}; {_nearest(name, SIZES)}")
    known = [field.name for field in fields(SwinConfig)]
    for size in sizes:
        if size not in known:
            raise ValueError(f"unknown model size {size!r}; {_nearest(size, known)}")
    config = {**SIZES[name], **sizes}
    for key in ("image_size", "window_size"):
        config[key] = _pair(config[key])
    for key in ("depths", "num_heads"):
        config[key] = tuple(config[key])
    return SwinTransformer(SwinConfig(**config))


def _pair(sides: Union[int, Sequence[int]]) -> Tuple[int, int]:
    height, width = (sides, sides) if isinstance(sides, int) else sides
    return height, width


def _nearest(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(words)}"
