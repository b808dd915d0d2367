"""The model against an independent one in NumPy, its names, sizes and dropout."""

import numpy as np
import pytest
import tensorflow as tf

from models import VARIANTS, create_model, named_variables
from models.dropout import CountedDropout, DropoutMasks
from models.vit import configure
from tests.reference_vit import forward, random_arrays
from weights import load_npz

SMALL = {"width": 32, "depth": 2, "heads": 2, "mlp_width": 48, "num_classes": 10}


@pytest.mark.parametrize(
    ("name", "plain", "representation"),
    [
        ("ViT-B_16", 86_859_496, 87_450_088),
        ("ViT-B_32", 88_297_192, 88_887_784),
        ("ViT-L_16", 304_715_752, 305_765_352),
        ("ViT-L_32", 306_632_680, 307_682_280),
    ],
)
def test_parameters_at_384_pixels_and_1000_classes(name, plain, representation):
    config = VARIANTS[name]
    layers = 16 * config.depth + 8
    model = create_model(name, image_size=384, num_classes=1000, representation=name.endswith("B_16"))
    wanted, arrays = (representation, layers + 2) if name.endswith("B_16") else (plain, layers)
    assert model.count_params() == wanted
    assert len(named_variables(model)) == len(model.weights) == arrays
    assert representation - plain == config.width**2 + config.width


def test_layers_have_the_documents_names():
    names = [layer.name for layer in create_model("ViT-B_16", image_size=32, representation=True, **SMALL).layers]
    wanted = ["embedding", "class_token", "Transformer/posembed_input", "Transformer/encoderblock_0"]
    wanted += ["Transformer/encoderblock_1", "Transformer/encoder_norm", "ExtractToken", "pre_logits", "head"]
    assert [name for name in names if name in wanted] == wanted


@pytest.mark.parametrize("representation", [False, True])
@pytest.mark.parametrize(("size", "patch"), [(32, 16), (48, 8)])
def test_logits_are_those_of_the_reference(tmp_path, size, patch, representation):
    arrays = random_arrays(tokens=(size // patch) ** 2 + 1, patch=patch, representation=representation)
    np.savez(tmp_path / "vit.npz", **arrays)
    images = np.random.default_rng(1).uniform(-1, 1, (3, size, size, 3)).astype(np.float32)
    model = create_model("ViT-B_16", image_size=size, patch_size=patch, representation=representation, **SMALL)
    load_npz(model, tmp_path / "vit.npz")
    wanted = forward(arrays, images)
    np.testing.assert_allclose(model(images).numpy(), wanted, rtol=1e-4, atol=1e-5 * abs(wanted).max())


def test_with_bfloat16_the_logits_are_float32_and_near(tmp_path):
    arrays = random_arrays(tokens=5)
    np.savez(tmp_path / "vit.npz", **arrays)
    images = np.random.default_rng(1).uniform(-1, 1, (3, 32, 32, 3)).astype(np.float32)
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = create_model("ViT-B_16", image_size=32, **SMALL)
        load_npz(model, tmp_path / "vit.npz")
        logits = model(images)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert logits.dtype == tf.float32
    assert all(variable.dtype == tf.float32 for variable in model.trainable_variables)
    np.testing.assert_allclose(logits.numpy(), forward(arrays, images), atol=0.05)


def test_the_head_starts_at_zero_or_as_in_keras():
    assert not np.any(create_model("ViT-B_16", image_size=32, **SMALL).get_layer("head").kernel.numpy())
    assert np.any(create_model("ViT-B_16", image_size=32, zero_head=False, **SMALL).get_layer("head").kernel.numpy())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_size": 100}, "100 is not a multiple of the patch size 16"),
        ({"width": 770}, "770 is not divisible by 12 heads"),
        ({"dropout": 1.0}, "probability below 1"),
        ({"depth": 0}, "depth is at least 1"),
    ],
)
def test_sizes_that_do_not_fit(changes, said):
    with pytest.raises(ValueError, match=said):
        configure("ViT-B_16", **changes)


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean ViT-L_32"):
        create_model("ViT-L32")


def test_draws_of_a_part_are_the_part_of_the_draws():
    masks = DropoutMasks(3)
    masks.set_place(5, 0)
    whole = masks.draws(tf.constant([8, 5, 9]), 2).numpy()  # 45 values: not a whole number of Philox blocks
    masks.set_place(5, 3)
    assert (masks.draws(tf.constant([4, 5, 9]), 2).numpy() == whole[3:7]).all()
    for update, layer, seed in ((6, 2, 3), (5, 3, 3), (5, 2, 4)):
        other = DropoutMasks(seed)
        other.set_place(update, 0)
        assert (other.draws(tf.constant([8, 5, 9]), layer).numpy() == whole).mean() < 0.01


def test_dropout_drops_its_share_and_keeps_the_mean():
    masks = DropoutMasks(1)
    layer = CountedDropout(0.25, masks)
    values = layer(tf.ones([64, 1000]), training=True).numpy()
    assert set(np.unique(values)) == {0.0, np.float32(4 / 3)}
    assert abs((values == 0).mean() - 0.25) < 0.01
    assert (layer(tf.ones([4, 8]), training=False).numpy() == 1).all()


def test_dropout_stands_where_googles_has_it():
    def masks_drawn(**changes):
        masks = DropoutMasks(0)
        create_model("ViT-B_16", image_size=32, masks=masks, **SMALL, **changes)
        return masks.next_layer() - 1

    assert masks_drawn() == 1 + 3 * SMALL["depth"]
    assert masks_drawn(embedding_dropout=False) == 3 * SMALL["depth"]
