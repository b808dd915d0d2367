"""Small Swins and images for the tests."""

from zlib import crc32

import torch

from models import create_model

TINY = {"image_size": 56, "embed_dim": 12, "depths": (2, 2), "num_heads": (2, 3), "window_size": 7}


def tiny(name="swin_tiny_patch4_window7_224", num_classes=5, **sizes):
    """A Swin of some ten thousand weights, all of them random: zero biases or unit norms could hide a mistake."""
    model = create_model(name, num_classes=num_classes, **{**TINY, **sizes})
    return randomised(model)


def randomised(model, std=0.15):
    """Draw every parameter anew, from its name alone."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            draw = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(crc32(name.encode())))
            scale = 1.0 if "bias_table" in name else std
            parameter.copy_(float(parameter.ndim == 1 and name.endswith("weight")) + scale * draw)
    return model


def images(batch=2, height=56, width=56, seed=1):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))
