"""Vision Transformer for classification on top of a pretrained encoder (He et al. 2021, arXiv:2111.06377, appendix A).

The class is told from the mean of the patches or from the class token. state_dict has the names of published
fine-tuned MAE checkpoints, which are timm's.

Shape letters: B batch, c channels, P patches, N = P + 1 tokens, D width, H heads, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, Optional, Tuple, cast

import torch
from torch import Tensor, nn

from models.attention import attention_probabilities
from models.layers import Block, PatchEmbedding, run_blocks
from models.patches import patchify
from models.shapes import check_counts, check_gelu, check_heads, check_image


@dataclass(frozen=True)
class ViTConfig:
    """Shape and regularisation of a VisionTransformer.

    image_size (height, width) and patch_size are in pixels. num_classes 0 leaves out the head. global_pool tells the
    class from the mean of the patches, else it is told from the class token. linear_probe puts a batch normalisation
    without weights before the head. drop_path is a probability, that of the last block. gelu is "erf" or "tanh".
    """

    image_size: Tuple[int, int] = (224, 224)
    patch_size: int = 16
    in_channels: int = 3
    num_classes: int = 1000
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_width: int = 3072
    layer_norm_eps: float = 1e-6
    gelu: str = "erf"
    global_pool: bool = True
    linear_probe: bool = False
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        check_counts(patch_size=self.patch_size, in_channels=self.in_channels)
        check_counts(width=self.width, depth=self.depth, heads=self.heads, mlp_width=self.mlp_width)
        check_image(self.image_size, self.patch_size)
        check_heads(self.width, self.heads)
        check_gelu(self.gelu)
        if self.num_classes < 0:
            raise ValueError(f"num_classes is at least 0, not {self.num_classes}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path is a probability below 1, not {self.drop_path}")

    @property
    def grid(self) -> Tuple[int, int]:
        """Patches along the height and the width of an image."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size


class VisionTransformer(nn.Module):
    """Images to class logits; the submodules may sit on different devices, one after the other.

    In fine-tuning with pooling, `fc_norm` normalises the pooled features and there is no `norm`; otherwise `norm`,
    which pretraining has trained, normalises the tokens. A linear probe freezes what it stands on, so it keeps `norm`
    with pooling too.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        patches = config.grid[0] * config.grid[1]
        self.patch_embed = PatchEmbedding(config.in_channels, width, config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches + 1, width))
        step = config.drop_path / max(config.depth - 1, 1)
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.mlp_width, config.layer_norm_eps, config.gelu, step * index)
            for index in range(config.depth)
        )
        normalises_pooled = config.global_pool and not config.linear_probe
        norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.norm: Optional[nn.LayerNorm] = None if normalises_pooled else norm
        self.fc_norm: Optional[nn.LayerNorm] = norm if normalises_pooled else None
        self.head = self._new_head()
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of normalised images (B, c, height, width); features (B, D) without a head."""
        x = run_blocks(self.blocks, self._embed(images))
        if self.norm is not None:
            x = self.norm(x)
        x = x[:, 1:].mean(dim=1) if self.config.global_pool else x[:, 0]  # (B, N, D) -> (B, D)
        if self.fc_norm is not None:
            x = self.fc_norm(x)
        return self.head(x)

    @torch.no_grad()
    def attention_maps(self, images: Tensor) -> Tensor:
        """What each token attends to in each block, (B, c, height, width) -> (B, depth, H, N, N).

        Call it on a model in evaluation mode.
        """
        x = self._embed(images)
        maps = []
        for block in cast(Iterable[Block], self.blocks):
            q, k, _ = block.attn.project(block.norm1(x))
            maps.append(attention_probabilities(q, k))
            x = block(x)
        return torch.stack(maps, dim=1)

    @torch.no_grad()
    def reset_head(self) -> None:
        """Draw the head anew as it starts on pretrained weights: N(0, 2e-5), a linear probe's N(0, 0.01), bias 0."""
        for module in self.head.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.01 if self.config.linear_probe else 2e-5)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm1d):
                module.reset_running_stats()
        if self.fc_norm is not None:
            self.fc_norm.reset_parameters()

    def _embed(self, images: Tensor) -> Tensor:
        """Tokens of images, the class token's first, (B, c, height, width) -> (B, N, D)."""
        x = self.patch_embed(patchify(images, self.config.patch_size))
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), x), dim=1)  # (B, P, D) -> (B, N, D)
        return x + self.pos_embed

    def _new_head(self) -> nn.Module:
        width, classes = self.config.width, self.config.num_classes
        if not classes:
            return nn.Identity()
        linear = nn.Linear(width, classes)
        if not self.config.linear_probe:
            return linear
        return nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6), linear)

    @torch.no_grad()
    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
