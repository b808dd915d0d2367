"""Where on an image a Swin sees its class: class activation maps (Zhou et al. 2016, arXiv:1512.04150).

Swin has no class token whose attention could be followed. But its head is linear behind a mean over places, so a logit
is exactly the mean of what each place of the last map gives to it, without any gradient.

Shape letters: B batch, H and W rows and columns of the last map, D width, C classes.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import SwinTransformer
from run.files import write_atomically


@torch.no_grad()
def class_activation(model: SwinTransformer, images: Tensor, classes: Tensor) -> Tensor:
    """What each place gives to the logit of a class beyond what it gives to the average class, (B, H, W) in logits.

    The mean over places is logit - mean logit, where both are without the head's bias.

    Args:
        model: with a head, in evaluation mode.
        images: normalised, (B, channels, height, width).
        classes: index of a class per image, (B,).
    """
    assert isinstance(model.head, nn.Linear)
    tokens = model.norm(model.forward_features(images)[-1].permute(0, 2, 3, 1))  # (B, D, H, W) -> (B, H, W, D)
    weight = model.head.weight - model.head.weight.mean(dim=0)  # (C, D)
    return torch.einsum("bhwd,bd->bhw", tokens, weight[classes])


def draw_activation(image: Tensor, activation: Tensor, covered: Tuple[int, int], title: str, path: Path) -> None:
    """Write a PNG: the image as the model gets it, and beside it the same under the activation as colours.

    Args:
        image: (3, height, width) uint8.
        activation: (H, W) of `class_activation`.
        covered: height and width in pixels of what the map covers, from the image's upper left corner.
        title: stands above.
        path: of the picture; its folder is made.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = image.shape[-2:]
    values = F.interpolate(activation.float().cpu()[None, None], covered, mode="bilinear")[0, 0, :height, :width]
    limit = max(float(values.abs().max()), 1e-6)
    pixels = image.permute(1, 2, 0).numpy()
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for panel in (left, right):
        panel.imshow(pixels)
        panel.set_axis_off()
    colours = right.imshow(values.numpy(), cmap="coolwarm", vmin=-limit, vmax=limit, alpha=0.55)
    left.set_title("input", fontsize=9)
    right.set_title("class activation", fontsize=9)
    figure.colorbar(colours, ax=right, label="logits for (+) and against (-) the class", shrink=0.85)
    figure.suptitle(title.replace("$", r"\$"))
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, picture.getvalue())
