"""Shape and regularisation of a Swin Transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Tuple

_PROBABILITIES = ("dropout", "attention_dropout", "drop_path")


@dataclass(frozen=True)
class SwinConfig:
    """What a SwinTransformer is built from. Each field's default is that of Swin-T on ImageNet-1k.

    image_size and window_size are (height, width), in pixels and tokens, patch_size is in pixels. embed_dim is the
    width of the first stage, every following one has twice as much. depths and num_heads hold a number per stage.
    mlp_ratio is the width of the MLP over that of its stage, qk_scale the factor of query-key products, by default
    1/√(width of a head). The dropouts and drop_path are probabilities, drop_path that of the last block. num_classes
    0 leaves out the head. absolute_positions adds a learned position to each patch, patch_norm a LayerNorm behind
    the patch embedding. checkpoint_blocks recomputes each block in the backward pass instead of keeping its inside.
    """

    image_size: Tuple[int, int] = (224, 224)
    patch_size: int = 4
    in_channels: int = 3
    num_classes: int = 1000
    embed_dim: int = 96
    depths: Tuple[int, ...] = (2, 2, 6, 2)
    num_heads: Tuple[int, ...] = (3, 6, 12, 24)
    window_size: Tuple[int, int] = (7, 7)
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_scale: Optional[float] = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    drop_path: float = 0.0
    layer_norm_eps: float = 1e-5
    absolute_positions: bool = False
    patch_norm: bool = True
    checkpoint_blocks: bool = False

    def __post_init__(self) -> None:
        for name in ("image_size", "window_size", "depths", "num_heads"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}")
        for name in ("patch_size", "in_channels", "embed_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}")
        if len(self.depths) != len(self.num_heads):
            raise ValueError(f"depths has {len(self.depths)} stages and num_heads {len(self.num_heads)}: give as many")
        for width, heads in zip(self.widths, self.num_heads):
            if width % heads:
                raise ValueError(f"width {width} of a stage is not divisible by its {heads} heads; change one of them")
        if self.mlp_ratio * self.embed_dim < 1:
            raise ValueError(f"mlp_ratio is {self.mlp_ratio}, which leaves no MLP; give 4")
        for name in _PROBABILITIES:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a probability below 1, not {getattr(self, name)}")

    @property
    def widths(self) -> List[int]:
        """Width of each stage."""
        return [self.embed_dim * 2**stage for stage in range(len(self.depths))]

    @property
    def resolutions(self) -> List[Tuple[int, int]]:
        """Rows and columns of each stage's map; what doesn't divide by the patch size, or by 2, is padded."""
        rows, columns = (-(-side // self.patch_size) for side in self.image_size)
        found = []
        for _ in self.depths:
            found.append((rows, columns))
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
        return found

    @property
    def covered(self) -> Tuple[int, int]:
        """Pixels along the height and the width that the last map stands for, padding among them."""
        cell = self.patch_size * 2 ** (len(self.depths) - 1)
        rows, columns = self.resolutions[-1]
        return rows * cell, columns * cell

    @property
    def drop_paths(self) -> List[List[float]]:
        """Probability for each block of each stage, growing linearly from 0 to drop_path."""
        total = sum(self.depths)
        rates = iter([self.drop_path * block / max(total - 1, 1) for block in range(total)])
        return [[next(rates) for _ in range(depth)] for depth in self.depths]
