"""Google's .npz files, against timm's reading of them and a NumPy model computed from the arrays."""

import numpy as np
import pytest
import timm
import torch
from scipy import ndimage

from models import create_model
from run.errors import UserError
from tests import numpy_vit
from tests.npz_files import google_arrays
from weights import load_weights, resize_positions, save_weights

TINY = {"patch_size": 4, "width": 24, "depth": 2, "heads": 3, "mlp_width": 40}
HYBRID = {"width": 24, "depth": 1, "heads": 3, "mlp_width": 40, "stages": (2, 1), "resnet_width": 32}
# Narrow and shallow, in the geometry of the published files: patches of 16 and 32 pixels, images of 224 and 384.
PUBLISHED = {"ViT-B_16": (224, 4, 2), "ViT-B_32": (384, 4, 2), "ViT-L_16": (224, 8, 3)}


def tiny(**changes):
    torch.manual_seed(0)
    return create_model("ViT-B_16", **{"image_size": 16, "num_classes": 5, **TINY, **changes}).eval()


def hybrid(image_size=32, **changes):
    torch.manual_seed(0)
    return create_model("R50-ViT-B_16", image_size=image_size, num_classes=5, **{**HYBRID, **changes}).eval()


def images(side, height=None):
    return torch.randn(2, 3, height or side, side, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)


def load(tmp_path, arrays, model, **options):
    np.savez(tmp_path / "vit.npz", **arrays)
    return load_weights(model, tmp_path / "vit.npz", **options)


@torch.no_grad()
def against_numpy(model, arrays, pictures):
    """Largest difference of a float64 copy's logits from NumPy's, of the size of the logits."""
    expected = numpy_vit.logits(arrays, pictures.permute(0, 2, 3, 1).numpy())
    assert np.abs(expected).max() > 0.1
    return np.abs(model.double()(pictures.double()).numpy() - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("name", PUBLISHED)
def test_logits_are_timms(tmp_path, name):
    side, heads, depth = PUBLISHED[name]
    patch = int(name.split("_")[1])
    tokens = 1 + (side // patch) ** 2
    sizes = {"width": 32, "heads": heads, "depth": depth, "mlp_width": 128}
    arrays = google_arrays(patch_size=patch, tokens=tokens, classes=7, **sizes)
    model = create_model(name, image_size=side, num_classes=7, **sizes).eval()
    report = load(tmp_path, arrays, model)
    reference = timm.create_model(
        "vit_base_patch16_224",
        img_size=side,
        patch_size=patch,
        embed_dim=32,
        num_heads=heads,
        depth=depth,
        num_classes=7,
        checkpoint_path=str(tmp_path / "vit.npz"),
    ).eval()
    with torch.no_grad():
        ours, theirs = model(images(side)), reference(images(side))
    assert theirs.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert report.source_layout == "npz"
    assert sorted(report.loaded) == sorted(model.state_dict())
    assert len(arrays) == 16 * depth + 8


def test_logits_are_those_of_the_definition(tmp_path):
    arrays, model = google_arrays(), tiny()
    load(tmp_path, arrays, model)
    assert against_numpy(model, arrays, images(16)) < 1e-12


# 32 is even all the way down; with 40 the second stage halves 10, and no side is a power of two.
@pytest.mark.parametrize(("side", "stages"), [(32, (2, 1)), (40, (1, 1)), (48, (1, 2, 1)), (28, (1,))])
def test_hybrid_logits_are_those_of_the_definition(tmp_path, side, stages):
    sizes = {"stages": stages, "depth": 1, "patch_size": 1}
    model = hybrid(side, stages=stages)
    arrays = google_arrays(tokens=1 + model.config.grid[0] ** 2, **sizes)
    report = load(tmp_path, arrays, model)
    assert sorted(report.loaded) == sorted(model.state_dict())
    assert against_numpy(model, arrays, images(side)) < 1e-10


def test_hybrid_of_patches_on_features(tmp_path):
    model = hybrid(32, stages=(1,), patch_size=2)
    arrays = google_arrays(tokens=17, stages=(1,), depth=1, patch_size=2)
    load(tmp_path, arrays, model)
    assert against_numpy(model, arrays, images(32)) < 1e-10


def test_hybrid_is_close_to_timms(tmp_path):
    """timm's epsilons are others, of GroupNorm and in the standard deviation, which hardly tells."""
    sizes = {"width": 32, "heads": 4, "depth": 1, "mlp_width": 128}
    reference = timm.create_model(
        "vit_base_r50_s16_224", img_size=64, embed_dim=32, num_heads=4, depth=1, num_classes=7
    ).eval()
    model = create_model("R50-ViT-B_16", image_size=64, num_classes=7, **sizes).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(mean=float("gn" in name), std=0.2)
    save_weights(model, tmp_path / "hybrid.npz", "npz")
    reference.load_pretrained(tmp_path / "hybrid.npz")
    with torch.no_grad():
        torch.testing.assert_close(model(images(64)), reference(images(64)), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("old", "new"), [((14, 14), (24, 24)), ((7, 7), (12, 12)), ((14, 14), (7, 7)), ((4, 4), (2, 6))]
)
def test_positions_are_resized_as_googles_reference_does(old, new):
    positions = torch.randn(1, 1 + old[0] * old[1], 3, generator=torch.Generator().manual_seed(0))
    resized = resize_positions(positions, old, new)
    grid = positions[0, 1:].reshape(*old, 3).numpy()
    zoomed = ndimage.zoom(grid, (new[0] / old[0], new[1] / old[1], 1), order=1)
    torch.testing.assert_close(resized[0, 1:], torch.from_numpy(zoomed).reshape(-1, 3), rtol=0, atol=5e-6)
    assert torch.equal(resized[:, 0], positions[:, 0])


@pytest.mark.parametrize("make", [tiny, hybrid])
def test_a_file_for_another_image_size(tmp_path, make):
    small = make()
    save_weights(small, tmp_path / "small.npz", "npz")
    side = 2 * small.config.image_size[0]
    model = make(image_size=side)
    report = load_weights(model, tmp_path / "small.npz")
    old, new = small.config.grid, model.config.grid
    assert report.resized == (f"embeddings.positions {old[0]}×{old[1]} → {new[0]}×{new[1]}",)
    expected = resize_positions(small.embeddings.positions, old, new)
    assert torch.equal(model.embeddings.positions, expected)


def test_a_new_head_is_zero_and_pre_logits_are_left_out(tmp_path):
    arrays = google_arrays(classes=100, pre_logits=True)
    assert len(arrays) == 16 * 2 + 10
    model = tiny()
    with pytest.raises(UserError, match=r"has a pre_logits layer before its head: ask for a new head"):
        load(tmp_path, arrays, model)
    report = load(tmp_path, arrays, model, new_head=True)
    assert report.unexpected == ("pre_logits/bias", "pre_logits/kernel")
    assert report.reinitialised == ("head.weight", "head.bias")
    assert not model.head.weight.any()
    assert not model.head.bias.any()
    assert torch.equal(model.embeddings.class_token, torch.from_numpy(arrays["cls"]))


@pytest.mark.parametrize("make", [tiny, hybrid])
def test_what_is_written_is_what_was_read(tmp_path, make):
    config = make().config
    arrays = google_arrays(
        patch_size=config.patch_size, depth=config.depth, stages=config.stages, tokens=1 + config.grid[0] ** 2
    )
    model = make()
    load(tmp_path, arrays, model)
    save_weights(model, tmp_path / "again.npz", "npz")
    with np.load(tmp_path / "again.npz") as again:
        assert set(again.files) == set(arrays)
        for name in again.files:
            shape = (-1,) if "/gn" in f"/{name}" else arrays[name].shape  # GroupNorm's extra axes are not
            np.testing.assert_array_equal(again[name], arrays[name].reshape(shape), err_msg=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 9}, "has a head for 9 classes, the model for 5: ask for a new head"),
        ({"heads": 2}, "has 2 attention heads, the model 3: build it with 2"),
        ({"depth": 3}, "holds blocks.2.attention.*, for which the model has no place"),
        ({"depth": 1}, "lacks blocks.1"),
        ({"patch_size": 8}, "embeddings.patch.weight of 24×3×8×8, the model of 24×3×4×4"),
        ({"mlp_width": 48}, "of 48×24, the model of 40×24"),
        ({"tokens": 13}, "positions for 12 patches, which make no 3×3 grid"),
        ({"stages": (1,), "patch_size": 1}, "holds embeddings.resnet.* for which the model has no place"),
    ],
)
def test_files_that_do_not_fit(tmp_path, changes, message):
    model = tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=message) as refusal:
        load(tmp_path, google_arrays(**changes), model)
    assert "\n" not in str(refusal.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_plain_file_makes_no_hybrid(tmp_path):
    with pytest.raises(UserError, match=r"lacks embeddings.resnet.conv_root.weight, .* and \d+ more"):
        load(tmp_path, google_arrays(), hybrid())


def test_wrong_shapes_are_told(tmp_path):
    arrays = {**google_arrays(), "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel": np.zeros(())}
    with pytest.raises(UserError, match="shapes that no ViT has"):
        load(tmp_path, arrays, tiny())
    with pytest.raises(UserError, match=r"is a name for no .npz file"):
        save_weights(tiny(), tmp_path / "weights", "npz")
