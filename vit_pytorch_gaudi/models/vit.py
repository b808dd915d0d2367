"""Vision Transformer for image classification (Dosovitskiy et al. 2020, arXiv:2010.11929).

Pre-LayerNorm encoder with a class token, learned positions and the exact (erf) GELU, on patches of the image or, as a
hybrid, on those of a ResNet's features. Dropout stands after the positions and twice in each MLP.

Shape letters: B batch, P patches, N = P + 1 tokens, R rows asked for, D width, H heads, M width of the MLP, C classes.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields
from typing import Any, Dict, Iterable, Optional, Sequence, Tuple, Union, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import attend, attention_probabilities
from models.dropout import Dropout
from models.resnet import GROUPS, ResNet


@dataclass(frozen=True)
class ViTConfig:
    """Shape and regularisation of a VisionTransformer.

    image_size (height, width) is in pixels, patch_size too, or in features of the ResNet where there is one: `stages`
    are the units of each of its stages, resnet_width is its root's. attention_dropout drops attention weights and
    what attention adds to the tokens, dropout everything else. num_classes 0 leaves out the head.
    """

    image_size: Tuple[int, int] = (384, 384)
    patch_size: int = 16
    in_channels: int = 3
    num_classes: int = 1000
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_width: int = 3072
    dropout: float = 0.1
    attention_dropout: float = 0.0
    layer_norm_eps: float = 1e-6
    stages: Tuple[int, ...] = ()
    resnet_width: int = 64

    def __post_init__(self) -> None:
        for name in ("patch_size", "in_channels", "width", "depth", "heads", "mlp_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}")
        if self.stages and (min(self.stages) < 1 or self.resnet_width < 1 or self.resnet_width % GROUPS):
            raise ValueError(
                f"stages {self.stages} of width {self.resnet_width} make no ResNet: "
                f"give units per stage and a multiple of {GROUPS}"
            )
        height, width = self.image_size
        if height % self.patch_pixels or width % self.patch_pixels or min(self.image_size) < self.patch_pixels:
            nearest = max(round(height / self.patch_pixels), 1) * self.patch_pixels
            raise ValueError(
                f"image size {height}×{width} is not a multiple of the patches' {self.patch_pixels} pixels: "
                f"change it, to {nearest} for instance"
            )
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by {self.heads} heads; change one of them")
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a probability below 1, not {getattr(self, name)}")

    @property
    def patch_pixels(self) -> int:
        """Pixels of the image along one side of a patch."""
        return self.patch_size * (ResNet.stride_of(self.stages) if self.stages else 1)

    @property
    def grid(self) -> Tuple[int, int]:
        """Patches along the height and the width of an image."""
        return self.image_size[0] // self.patch_pixels, self.image_size[1] // self.patch_pixels


class Embeddings(nn.Module):
    """Patches, class token and positions: images (B, channels, height, width) -> tokens (B, N, D)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        patches = config.grid[0] * config.grid[1]
        self.resnet = ResNet(config.in_channels, config.resnet_width, config.stages) if config.stages else None
        channels = config.in_channels if self.resnet is None else self.resnet.channels
        self.patch = nn.Conv2d(channels, config.width, config.patch_size, stride=config.patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.positions = nn.Parameter(torch.zeros(1, patches + 1, config.width))
        self.dropout = Dropout(config.dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Tokens of normalised images, the class token first."""
        features = images if self.resnet is None else self.resnet(images)
        x = self.patch(features).flatten(2).transpose(1, 2)  # (B, D, height, width) -> (B, P, D)
        x = torch.cat((self.class_token.expand(x.shape[0], -1, -1), x), dim=1)  # (B, P, D) -> (B, N, D)
        return self.dropout(x + self.positions)


class Attention(nn.Module):
    """Multi-head self-attention; one product makes queries, keys and values."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = Dropout(config.attention_dropout)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def project(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Queries, keys and values, (B, N, D) -> three (B, H, N, D/H)."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: Tensor, rows: Optional[int] = None) -> Tensor:
        """What the first `rows` tokens, by default all, gather from all, (B, N, D) -> (B, R, D)."""
        q, k, v = self.project(x)
        x = attend(q[:, :, :rows], k, v, self.dropout.probability if self.training else 0.0)
        return self.dropout(self.proj(x.transpose(1, 2).flatten(2)))  # (B, H, R, D/H) -> (B, R, D)


class Mlp(nn.Module):
    """Two linear layers with the erf GELU between them, (B, N, D) -> (B, N, M) -> (B, N, D)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token by itself."""
        return self.dropout(self.fc2(self.dropout(F.gelu(self.fc1(x)))))


class Block(nn.Module):
    """Encoder layer: attention, then MLP, each behind a LayerNorm in a residual."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.attention = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, rows: Optional[int] = None) -> Tensor:
        """The first `rows` tokens, by default all, after both branches, (B, N, D) -> (B, R, D)."""
        x = x[:, :rows] + self.attention(self.norm1(x), rows)
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Normalised images to class logits."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.head = nn.Linear(config.width, config.num_classes) if config.num_classes else nn.Identity()
        for block in self.blocks:
            _initialise(cast(Block, block))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of normalised images (B, channels, height, width); features (B, D) without a head."""
        x = self.embeddings(images)
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            # Only the class token is classified, so the last block need not compute the others.
            x = block(x, 1 if index == last else None)
        return self.head(self.norm(x)[:, 0])  # (B, 1, D) -> (B, D)

    @torch.no_grad()
    def attention_maps(self, images: Tensor) -> Tensor:
        """What each token attends to in each block, (B, channels, height, width) -> (B, depth, H, N, N).

        Call it on a model in evaluation mode.
        """
        x = self.embeddings(images)
        maps = []
        for block in cast(Iterable[Block], self.blocks):
            q, k, _ = block.attention.project(block.norm1(x))
            maps.append(attention_probabilities(q, k))
            x = block(x)
        return torch.stack(maps, dim=1)

    @torch.no_grad()
    def reset_head(self) -> None:
        """Set the head to zero, as fine-tuning starts."""
        for parameter in self.head.parameters():
            parameter.zero_()


@torch.no_grad()
def _initialise(block: Block) -> None:
    """Xavier-uniform weights; biases of the MLP N(0, 1e-6), the others zero."""
    for weight in (*block.attention.qkv.weight.chunk(3), block.attention.proj.weight):  # each with its own fan
        nn.init.xavier_uniform_(weight)
    for layer in (block.attention.qkv, block.attention.proj):
        nn.init.zeros_(layer.bias)
    for layer in (block.mlp.fc1, block.mlp.fc2):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(layer.bias, std=1e-6)


_BASE = {"width": 768, "depth": 12, "heads": 12, "mlp_width": 3072}
_LARGE = {"width": 1024, "depth": 24, "heads": 16, "mlp_width": 4096}
SIZES: Dict[str, Dict[str, Any]] = {
    "ViT-B_16": {"patch_size": 16, **_BASE},
    "ViT-B_32": {"patch_size": 32, **_BASE},
    "ViT-L_16": {"patch_size": 16, **_LARGE},
    "ViT-L_32": {"patch_size": 32, **_LARGE},
    "ViT-H_14": {"patch_size": 14, "width": 1280, "depth": 32, "heads": 16, "mlp_width": 5120},
    "R50-ViT-B_16": {"patch_size": 1, **_BASE, "stages": (3, 4, 9)},
    "testing": {"patch_size": 8, "width": 64, "depth": 2, "heads": 4, "mlp_width": 128},
}


def create_model(
    name: str, *, image_size: Union[int, Sequence[int]] = 384, num_classes: int = 1000, **sizes: Any
) -> VisionTransformer:
    """Build the Vision Transformer `name` of SIZES with fresh weights.

    Args:
        name: a key of SIZES; "testing" is a tiny one that trains in seconds.
        image_size: pixels, one number or (height, width).
        num_classes: outputs of the head, 0 for none.
        sizes: fields of ViTConfig to set otherwise than `name` has them.

    Raises:
        ValueError: unknown name or size, or sizes that do not go together.
    """
    if name not in SIZES:
        raise ValueError(f"unknown model {name!r}; {_nearest(name, SIZES)}")
    known = [field.name for field in fields(ViTConfig)]
    for size in sizes:
        if size not in known:
            raise ValueError(f"unknown model size {size!r}; {_nearest(size, known)}")
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    config = {**SIZES[name], "image_size": (height, width), "num_classes": num_classes, **sizes}
    return VisionTransformer(ViTConfig(**config))


def _nearest(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(words)}"
