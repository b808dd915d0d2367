"""Draw what a masked autoencoder makes of images: python visualize.py --checkpoint RUN IMAGE …

Four pictures side by side: original, what the encoder sees, reconstruction, and the reconstruction with the visible
patches pasted in. Runs in plain torch.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Dict, NamedTuple, Optional, Sequence, cast

import torch
from torch import Tensor

from checkpoint import load_model
from dataset.transforms import sample_generator
from image_files import find_images, picture_paths, prepared
from ipu import host
from models import MaskedAutoencoder
from models.mae import patch_statistics
from models.masking import draw_noise
from models.patches import patchify, unpatchify
from prediction_options import VisualisationOptions
from preparation import Preparation
from run.errors import UserError, entry_point
from run.files import write_atomically
from run.options import parse

PICTURE = ".mae.png"
TITLES = ("original", "masked", "reconstruction", "reconstruction + visible")
NORMALISED = "each patch's mean and contrast are the original's"
_GREY = 128


class Reconstruction(NamedTuple):
    """Loss (B,) of each image's masked patches; mask (B, P); predicted images (B, c, H, W), normalised as the input."""

    loss: Tensor
    mask: Tensor
    images: Tensor


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Options → model → a picture and a line for each image."""
    about = (__doc__ or "").split("\n")[0]
    options = parse(
        VisualisationOptions, arguments, configs=None, script="visualize.py", description=about, rest="images"
    )
    paths = find_images(options.images)
    pictures = picture_paths(paths, PICTURE, options.output)
    loaded = load_model(
        options.checkpoint,
        reconstructs=True,
        image_size=options.image_size,
        eval_resize=options.eval_resize,
        mask_ratio=options.mask_ratio,
        norm_pix_loss=options.norm_pix_loss,
    )
    model = cast(MaskedAutoencoder, loaded.model).to(host.device())
    print(f"{loaded.report}\nimages: {loaded.preparation}", file=sys.stderr, flush=True)
    if model.config.norm_pix_loss:
        print(f"the decoder predicts normalised pixels: {NORMALISED}", file=sys.stderr, flush=True)
    bad = visualize(options, model, loaded.preparation, pictures)
    if bad:
        raise UserError(f"{len(bad)} of {len(paths)} images can't be read: repair them or leave them out")


def visualize(
    options: VisualisationOptions, model: MaskedAutoencoder, preparation: Preparation, pictures: Dict[Path, Path]
) -> Dict[str, str]:
    """Write the pictures; returns images that can't be read with the reason. A mask depends on the seed alone."""
    device = next(model.parameters()).device
    bad: Dict[str, str] = {}
    order = {path: index for index, path in enumerate(pictures)}
    for names, pixels in prepared(pictures, preparation, options.micro_batch_size, bad):
        generators = [sample_generator(options.seed, 0, order[name]) for name in names]
        noise = torch.cat([draw_noise(1, model.config.patches, generator=one) for one in generators])
        images = preparation.normalise(pixels).to(device)
        found = reconstruct(model, images, noise.to(device))
        panels = make_panels(pixels, found, model, preparation)
        for index, name in enumerate(names):
            loss = float(found.loss[index])
            draw_panels(panels[index], f"{name.name}   loss {loss:.4f}", model.config.norm_pix_loss, pictures[name])
            print(f"{pictures[name]}  loss {loss:.4f}", flush=True)
    for image, reason in bad.items():
        print(f"bad image {image}: {reason}", file=sys.stderr, flush=True)
    return bad


@torch.inference_mode()
def reconstruct(model: MaskedAutoencoder, images: Tensor, noise: Tensor) -> Reconstruction:
    """Predict whole images from their visible patches.

    Normalised predictions are given each patch's mean and deviation back, which are taken from the original: ground
    truth that the model itself does not have.

    Args:
        model: in evaluation mode.
        images: (B, c, H, W), normalised.
        noise: (B, P), which decides the masks.
    """
    _, prediction, mask = model(images, noise)
    patches = patchify(images, model.config.patch_size).float()
    error = (prediction.float() - model.targets(patches)).square().mean(dim=-1)  # (B, P)
    loss = (error * mask).sum(dim=1) / mask.sum(dim=1)
    prediction = prediction.float()
    if model.config.norm_pix_loss:
        mean, deviation = patch_statistics(patches)
        prediction = prediction * deviation + mean
    return Reconstruction(loss, mask, unpatchify(prediction, model.config.grid, model.config.patch_size))


def make_panels(pixels: Tensor, found: Reconstruction, model: MaskedAutoencoder, preparation: Preparation) -> Tensor:
    """The pictures of TITLES, uint8 (B, 3, H, W) -> (B, 4, 3, H, W): masked patches are grey."""
    p = model.config.patch_size
    predicted = preparation.pixels(found.images).cpu()
    squares = found.mask.cpu()[..., None].expand(-1, -1, p * p)  # (B, P) -> (B, P, p·p)
    hidden = unpatchify(squares, model.config.grid, p) > 0  # (B, 1, H, W)
    grey = torch.full_like(pixels, _GREY)
    masked, pasted = torch.where(hidden, grey, pixels), torch.where(hidden, predicted, pixels)
    return torch.stack((pixels, masked, predicted, pasted), dim=1)


def draw_panels(panels: Tensor, title: str, normalised: bool, path: Path) -> None:
    """Write (4, 3, H, W) uint8 as a PNG under TITLES; its folder is made.

    Args:
        panels: of one image.
        title: stands above.
        normalised: say that patches have the original's mean and contrast.
        path: of the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, image, name in zip(figure.subplots(1, len(TITLES)), panels, TITLES):
        panel.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest")
        panel.set_axis_off()
        panel.set_title(name, fontsize=9)
    figure.suptitle(title.replace("$", r"\$"), fontsize=10)
    if normalised:
        figure.supxlabel(NORMALISED, fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, picture.getvalue())


if __name__ == "__main__":
    entry_point(main)
