"""Masked autoencoder (He et al. 2021, arXiv:2111.06377): a ViT that sees a quarter of an image and fills in the rest.

An encoder works on the visible patches alone; a narrower decoder gets its output with a mask token in place of every
other patch, and predicts their pixels. Positions are fixed. state_dict has the names of published MAE checkpoints.

Shape letters: B batch, c channels, p patch side, P patches, V visible ones, M = P - V masked ones, D width of the
encoder, E of the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple, Union

import torch
from torch import Tensor, nn

from models.layers import Block, PatchEmbedding, run_blocks
from models.masking import MatrixSelection, Selection, count_visible, draw_noise, gather, select
from models.patches import patchify
from models.positions import sine_cosine_table
from models.shapes import check_counts, check_gelu, check_heads, check_image

Output = Tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class MAEConfig:
    """Shape, masking and target of a MaskedAutoencoder.

    image_size (height, width) and patch_size are in pixels; mask_ratio is the share of patches that the encoder does
    not see; norm_pix_loss makes each patch's own mean and deviation 0 and 1 in the target; gelu is "erf" or "tanh".
    """

    image_size: Tuple[int, int] = (224, 224)
    patch_size: int = 16
    in_channels: int = 3
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_width: int = 3072
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    decoder_mlp_width: int = 2048
    layer_norm_eps: float = 1e-6
    gelu: str = "erf"
    mask_ratio: float = 0.75
    norm_pix_loss: bool = False

    def __post_init__(self) -> None:
        check_counts(patch_size=self.patch_size, in_channels=self.in_channels)
        check_counts(width=self.width, depth=self.depth, heads=self.heads, mlp_width=self.mlp_width)
        check_counts(decoder_width=self.decoder_width, decoder_depth=self.decoder_depth)
        check_counts(decoder_heads=self.decoder_heads, decoder_mlp_width=self.decoder_mlp_width)
        check_image(self.image_size, self.patch_size)
        check_heads(self.width, self.heads)
        check_heads(self.decoder_width, self.decoder_heads, "decoder ")
        check_gelu(self.gelu)
        if not 0 < self.mask_ratio < 1 or not 0 < self.visible < self.patches:
            raise ValueError(
                f"mask_ratio {self.mask_ratio} of {self.patches} patches leaves none visible or none masked; change it"
            )

    @property
    def grid(self) -> Tuple[int, int]:
        """Patches along the height and the width of an image."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def patches(self) -> int:
        """Patches of an image, P."""
        return self.grid[0] * self.grid[1]

    @property
    def visible(self) -> int:
        """Patches that the encoder sees, V."""
        return count_visible(self.patches, self.mask_ratio)


class MaskedAutoencoder(nn.Module):
    """Images to loss, predicted patches and mask; the submodules may sit on different devices, one after the other."""

    pos_embed: Tensor
    decoder_pos_embed: Tensor

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        self.config = config
        width, narrow = config.width, config.decoder_width
        eps, kind = config.layer_norm_eps, config.gelu
        self.patch_embed = PatchEmbedding(config.in_channels, width, config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("pos_embed", sine_cosine_table(width, config.grid))
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.mlp_width, eps, kind) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=eps)

        self.decoder_embed = nn.Linear(width, narrow)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, narrow))
        self.register_buffer("decoder_pos_embed", sine_cosine_table(narrow, config.grid))
        self.decoder_blocks = nn.ModuleList(
            Block(narrow, config.decoder_heads, config.decoder_mlp_width, eps, kind)
            for _ in range(config.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(narrow, eps=eps)
        self.decoder_pred = nn.Linear(narrow, config.patch_size**2 * config.in_channels)
        self._initialise()

    def forward(
        self,
        images: Tensor,
        noise: Optional[Tensor] = None,
        keep: Optional[Tensor] = None,
        *,
        loss_only: bool = False,
    ) -> Union[Tensor, Output]:
        """Encode the visible patches, predict the others.

        Args:
            images: (B, c, height, width), normalised floats. Targets are made of them in float32.
            noise: (B, P), which decides the mask: the V smallest stay visible. By default it is drawn on the images'
                device from the default generator.
            keep: (B, P, V) of `masking.one_hot`, which replaces noise, and gathers by matrix products.
            loss_only: leave out what the loss does not need.

        Returns:
            The mean squared error of the masked patches, float32; the prediction (B, P, p·p·c); and the mask (B, P),
            1.0 where a patch was masked. With loss_only the loss alone, the same number.
        """
        patches = patchify(images, self.config.patch_size)
        selection: Union[Selection, MatrixSelection]
        if keep is not None:
            selection = MatrixSelection(keep)
        else:
            if noise is None:
                noise = draw_noise(*patches.shape[:2], device=patches.device)
            selection = select(noise, self.config.visible)
        x = self._encode(patches, selection)
        x = self._decode(x, selection)
        if loss_only and isinstance(selection, Selection):
            x, target = (gather(tokens, selection.masked) for tokens in (x, patches))
            return (self._predict(x).float() - self.targets(target)).square().mean()
        prediction, mask = self._predict(x), selection.mask
        error = (prediction.float() - self.targets(patches)).square().mean(dim=-1)  # (B, P)
        loss = (error * mask).sum() / mask.sum()
        return loss if loss_only else (loss, prediction, mask)

    def encode(self, images: Tensor, visible: Optional[Tensor] = None) -> Tensor:
        """Features of images, the class token's first, (B, c, height, width) -> (B, 1 + V, D).

        Args:
            images: normalised floats.
            visible: indices (B, V) of the patches to look at; by default all, and V is P.
        """
        patches = patchify(images, self.config.patch_size)
        if visible is None:
            visible = torch.arange(patches.shape[1], device=patches.device).expand(patches.shape[0], -1)
        return self._encode(patches, Selection(visible, visible[:, :0], visible))

    def targets(self, patches: Tensor) -> Tensor:
        """What the prediction of patches (B, P, p·p·c) is held against, float32 of the same shape."""
        patches = patches.float()
        if not self.config.norm_pix_loss:
            return patches
        mean, deviation = patch_statistics(patches)
        return (patches - mean) / deviation

    def _encode(self, patches: Tensor, selection: Union[Selection, MatrixSelection]) -> Tensor:
        """(B, P, p·p·c) -> (B, 1 + V, D): patches are chosen before they are embedded."""
        batch = patches.shape[0]
        x = self.patch_embed(selection.take(patches))
        x = x + selection.take(self.pos_embed[:, 1:].expand(batch, -1, -1))
        token = (self.cls_token + self.pos_embed[:, :1]).expand(batch, -1, -1)
        x = torch.cat((token, x), dim=1)  # (B, V, D) -> (B, 1 + V, D)
        return self.norm(run_blocks(self.blocks, x))

    def _decode(self, x: Tensor, selection: Union[Selection, MatrixSelection]) -> Tensor:
        """(B, 1 + V, D) -> (B, P, E), in the order of the image."""
        x = self.decoder_embed(x)
        token, x = x[:, :1], selection.put_back(x[:, 1:], self.mask_token)
        x = torch.cat((token.to(x.dtype), x), dim=1) + self.decoder_pos_embed  # (B, 1 + P, E)
        return run_blocks(self.decoder_blocks, x)[:, 1:]

    def _predict(self, x: Tensor) -> Tensor:
        """(B, M, E) -> (B, M, p·p·c), each token by itself."""
        return self.decoder_pred(self.decoder_norm(x))

    @torch.no_grad()
    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        # The patch embedding counts as a linear layer, but its bias stays as the convolution drew it.
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.flatten(1))
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)


def patch_statistics(patches: Tensor) -> Tuple[Tensor, Tensor]:
    """Mean and deviation of each patch's pixels, (B, P, p·p·c) -> two (B, P, 1); the target of norm_pix_loss.

    The deviation is sqrt(variance + 1e-6), with the variance's unbiased estimate.
    """
    mean = patches.mean(dim=-1, keepdim=True)
    return mean, (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()
