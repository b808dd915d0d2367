"""Tiny models of this app and of others, for comparisons."""

import timm
import torch
import transformers

from models import create_model

ENCODER = {"image_size": 16, "patch_size": 4, "width": 24, "depth": 3, "heads": 3, "mlp_width": 48}
DECODER = {"decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2, "decoder_mlp_width": 24}


def autoencoder(seed=0, **changes):
    torch.manual_seed(seed)
    return create_model("mae_vit_base_patch16", **{**ENCODER, **DECODER, **changes}).eval()


def classifier(num_classes=5, seed=0, **changes):
    torch.manual_seed(seed)
    return create_model("vit_base_patch16", num_classes=num_classes, **{**ENCODER, **changes}).eval()


def hugging_face(kind=transformers.ViTMAEForPreTraining, config=transformers.ViTMAEConfig, **changes):
    """transformers' counterpart with every weight random."""
    sizes = {"image_size": 16, "patch_size": 4, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3}
    sizes.update(intermediate_size=48, layer_norm_eps=1e-6)
    if config is transformers.ViTMAEConfig:
        sizes.update(decoder_hidden_size=16, decoder_num_hidden_layers=2, decoder_num_attention_heads=2)
        sizes.update(decoder_intermediate_size=24)
    return randomised(kind(config(**{**sizes, **changes})))


def timms(num_classes=5, global_pool="avg"):
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3, "mlp_ratio": 2}
    return randomised(
        timm.create_model("vit_base_patch16_224", num_classes=num_classes, global_pool=global_pool, **sizes)
    )


def randomised(model, seed=3):
    """Every parameter drawn anew, with them the position tables of transformers, which start as zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def images(height=16, width=16, channels=3):
    return torch.randn(4, channels, height, width, generator=torch.Generator().manual_seed(1))


def noise(patches=16):
    return torch.rand(4, patches, generator=torch.Generator().manual_seed(2))


def equal(first, second, but=()):
    """Whether all tensors of `first`, those in `but` left out, are the same in `second`."""
    theirs = second.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in first.state_dict().items() if name not in but)


def same(actual, expected):
    assert expected.abs().max() > 0.1  # outputs that could tell
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
