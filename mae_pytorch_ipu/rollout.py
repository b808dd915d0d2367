"""Which parts of an image a ViT's decision draws on: attention rollout (Abnar & Zuidema 2020, arXiv:2005.00928).

Shape letters: B batch, L layers, H heads, N = P + 1 tokens, P patches.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from run.files import write_atomically


def attention_rollout(maps: Tensor, pooled: bool = False) -> Tensor:
    """Share of each patch in what the decision is made of, (B, L, H, N, N) -> (B, P); rows sum to one.

    Heads count alike, the residual branch as much as attention (section 3 of the paper).

    Args:
        maps: attention of the model's layers, in their order.
        pooled: the decision is made of the mean of the patches; else of the class token.
    """
    mixing = maps.float().mean(dim=2)  # (B, L, H, N, N) -> (B, L, N, N)
    mixing = (mixing + torch.eye(mixing.shape[-1], device=mixing.device)) / 2  # rows still sum to one
    gathered = mixing[:, 0]
    for layer in mixing.unbind(1)[1:]:
        gathered = layer @ gathered
    # (B, N, N) -> (B, P): what was gathered from each patch, without the class token's own part
    patches = gathered[:, 1:, 1:].mean(dim=1) if pooled else gathered[:, 0, 1:]
    return patches / patches.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(patches.dtype).tiny)


def draw_rollout(image: Tensor, shares: Tensor, grid: Tuple[int, int], title: str, path: Path) -> None:
    """Write a PNG: the image as the model gets it, and beside it the same under the patches' shares as colours.

    Args:
        image: (3, H, W) uint8.
        shares: (P,) of `attention_rollout`.
        grid: rows and columns of patches.
        title: stands above.
        path: of the picture; its folder is made.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Twice as much as an even share is 2, whatever the number of patches.
    relative = (shares * shares.numel()).reshape(1, 1, *grid).cpu()
    relative = F.interpolate(relative, image.shape[-2:], mode="bilinear")[0, 0]
    pixels = image.permute(1, 2, 0).numpy()
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for panel in (left, right):
        panel.imshow(pixels)
        panel.set_axis_off()
    colours = right.imshow(relative.numpy(), cmap="turbo", alpha=0.5)
    left.set_title("input", fontsize=9)
    right.set_title("attention rollout", fontsize=9)
    figure.colorbar(colours, ax=right, label="times an even share", shrink=0.85)
    figure.suptitle(title.replace("$", r"\$"))
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, picture.getvalue())
