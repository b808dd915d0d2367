"""Vision Transformer for image classification (Dosovitskiy et al. 2020, arXiv:2010.11929).

Pre-LayerNorm encoder with a class token, learned positions and the exact (erf) GELU; dropout stands where
Hugging Face's ViTForImageClassification has it, and on request after the GELU as in the paper's pretraining.

Shape letters: B batch, P patches, N = P + 1 tokens, D width, H heads, M width of the MLP, C classes.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields
from typing import Any, Dict, Iterable, Optional, Sequence, Tuple, Union, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import attend, attention_probabilities
from models.drop_path import DropPath

INITIALISATIONS = ("finetune", "pretrain")


@dataclass(frozen=True)
class ViTConfig:
    """Shape, regularisation and initialisation of a VisionTransformer.

    image_size (height, width) and patch_size are in pixels. The dropouts and drop_path are probabilities, drop_path
    that of the last block, gelu_dropout that inside the MLP. num_classes 0 leaves out the head; representation_size
    adds a tanh layer of that width before it. init is "finetune", Hugging Face's, or "pretrain", for training from
    scratch.
    """

    image_size: Tuple[int, int] = (224, 224)
    patch_size: int = 16
    in_channels: int = 3
    num_classes: int = 1000
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_width: int = 3072
    hidden_dropout: float = 0.0
    gelu_dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    layer_norm_eps: float = 1e-6
    representation_size: Optional[int] = None
    init: str = "finetune"

    def __post_init__(self) -> None:
        for name in ("patch_size", "in_channels", "width", "depth", "heads", "mlp_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}")
        height, width = self.image_size
        if height % self.patch_size or width % self.patch_size or min(self.image_size) < self.patch_size:
            raise ValueError(
                f"image size {height}×{width} is not a multiple of the patch size {self.patch_size}; change one of them"
            )
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by {self.heads} heads; change one of them")
        for name in ("hidden_dropout", "gelu_dropout", "attention_dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a probability below 1, not {getattr(self, name)}")
        if self.init not in INITIALISATIONS:
            raise ValueError(f"unknown init {self.init!r}; choose one of {', '.join(INITIALISATIONS)}")

    @property
    def grid(self) -> Tuple[int, int]:
        """Patches along the height and the width of an image."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size


class Embeddings(nn.Module):
    """Patches, class token and positions: images (B, channels, height, width) -> tokens (B, N, D)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        patches = config.grid[0] * config.grid[1]
        self.patch = nn.Conv2d(config.in_channels, config.width, config.patch_size, stride=config.patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.positions = nn.Parameter(torch.zeros(1, patches + 1, config.width))
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Tokens of normalised images, the class token first."""
        x = self.patch(images).flatten(2).transpose(1, 2)  # (B, D, height, width) -> (B, P, D)
        x = torch.cat((self.class_token.expand(x.shape[0], -1, -1), x), dim=1)  # (B, P, D) -> (B, N, D)
        return self.dropout(x + self.positions)


class Attention(nn.Module):
    """Multi-head self-attention, (B, N, D) -> (B, N, D); one product makes queries, keys and values."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.attention_dropout
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def project(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Queries, keys and values, (B, N, D) -> three (B, H, N, D/H)."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        return qkv.permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: Tensor) -> Tensor:
        """Let every token gather from all others."""
        q, k, v = self.project(x)
        x = attend(q, k, v, self.dropout if self.training else 0.0)
        return self.proj(x.transpose(1, 2).flatten(2))  # (B, H, N, D/H) -> (B, N, D)


class Mlp(nn.Module):
    """Two linear layers with the erf GELU between them, (B, N, D) -> (B, N, M) -> (B, N, D)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)
        self.dropout = nn.Dropout(config.gelu_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token by itself."""
        return self.fc2(self.dropout(F.gelu(self.fc1(x))))


class Block(nn.Module):
    """Encoder layer, (B, N, D) -> (B, N, D): attention, then MLP, each behind a LayerNorm in a residual."""

    def __init__(self, config: ViTConfig, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.attention = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp = Mlp(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both branches."""
        x = x + self.drop_path(self.dropout(self.attention(self.norm1(x))))
        return x + self.drop_path(self.dropout(self.mlp(self.norm2(x))))


class VisionTransformer(nn.Module):
    """Images to class logits; `embeddings`, `blocks[i]`, `norm` and `head` may sit on different devices."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        last = max(config.depth - 1, 1)
        self.embeddings = Embeddings(config)
        self.blocks = nn.ModuleList(Block(config, config.drop_path * i / last) for i in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        size, classes = config.representation_size, config.num_classes
        self.representation = nn.Linear(config.width, size) if size else None
        self.head = nn.Linear(size or config.width, classes) if classes else nn.Identity()
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of normalised images (B, channels, height, width); features (B, D) without a head."""
        x = self.embeddings(images)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)[:, 0]  # (B, N, D) -> (B, D): only the class token is classified
        if self.representation is not None:
            x = torch.tanh(self.representation(x))
        return self.head(x)

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
        """Draw the head's weights anew: N(0, 0.02) and bias 0, or for pretraining Xavier and bias -10."""
        if isinstance(self.head, nn.Linear):
            self._initialise_layer(self.head)
            if self.config.init == "pretrain":
                nn.init.constant_(self.head.bias, -10.0)

    @torch.no_grad()
    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                self._initialise_layer(module)
        self.reset_head()
        nn.init.trunc_normal_(self.embeddings.positions, std=0.02)
        if self.config.init == "finetune":
            nn.init.trunc_normal_(self.embeddings.class_token, std=0.02)
            return
        for block in cast(Iterable[Block], self.blocks):
            for weight in block.attention.qkv.weight.chunk(3):  # three layers in one, each with its own fan
                nn.init.xavier_normal_(weight)

    def _initialise_layer(self, layer: Union[nn.Linear, nn.Conv2d]) -> None:
        if self.config.init == "finetune":
            nn.init.normal_(layer.weight, std=0.02)
        elif isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            return  # its bias stays as the convolution drew it
        else:
            nn.init.xavier_normal_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


SIZES: Dict[str, Dict[str, int]] = {
    "vit_tiny_patch16_224": {"patch_size": 16, "width": 192, "depth": 12, "heads": 3, "mlp_width": 768},
    "vit_small_patch16_224": {"patch_size": 16, "width": 384, "depth": 12, "heads": 6, "mlp_width": 1536},
    "vit_base_patch16_224": {"patch_size": 16, "width": 768, "depth": 12, "heads": 12, "mlp_width": 3072},
    "vit_base_patch32_224": {"patch_size": 32, "width": 768, "depth": 12, "heads": 12, "mlp_width": 3072},
    "vit_large_patch16_224": {"patch_size": 16, "width": 1024, "depth": 24, "heads": 16, "mlp_width": 4096},
    "vit_huge_patch14_224": {"patch_size": 14, "width": 1280, "depth": 32, "heads": 16, "mlp_width": 5120},
}


def create_model(
    name: str, *, image_size: Union[int, Sequence[int]] = 224, num_classes: int = 1000, **sizes: Any
) -> VisionTransformer:
    """Build the Vision Transformer `name` of SIZES with fresh weights.

    Args:
        name: a key of SIZES.
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
