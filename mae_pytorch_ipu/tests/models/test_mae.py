import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from models import MAEConfig, create_model
from models.mae import patch_statistics
from models.masking import one_hot, select
from models.patches import patchify

TINY = {"image_size": 16, "patch_size": 4, "width": 24, "depth": 2, "heads": 3, "mlp_width": 40}
TINY.update(decoder_width=16, decoder_depth=2, decoder_heads=2, decoder_mlp_width=24)


def tiny(**sizes):
    torch.manual_seed(0)
    return create_model("mae_vit_base_patch16", **{**TINY, **sizes}).eval()


def images(batch=4, height=16, width=16, channels=3, seed=1):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


def noise(batch=4, patches=16, seed=2):
    return torch.rand(batch, patches, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "trainable", "in_all", "keys"),
    [
        ("mae_vit_align_patch16", 28_950_528, 29_202_688, 74),
        ("mae_vit_base_patch16", 111_655_680, 111_907_840, 254),
        ("mae_vit_large_patch16", 329_239_296, 329_541_888, 398),
        ("mae_vit_huge_patch14", 656_613_964, 657_074_508, 494),
    ],
)
def test_parameter_counts_of_the_published_models(name, trainable, in_all, keys):
    with torch.device("meta"):
        model = create_model(name)
    state = model.state_dict()
    assert sum(parameter.numel() for parameter in model.parameters()) == trainable
    assert sum(tensor.numel() for tensor in state.values()) == in_all
    assert len(state) == keys


def test_names_and_shapes_of_the_published_checkpoints():
    with torch.device("meta"):
        state = create_model("mae_vit_large_patch16").state_dict()
    expected = {"cls_token": (1, 1, 1024), "pos_embed": (1, 197, 1024), "mask_token": (1, 1, 512)}
    expected.update({"patch_embed.proj.weight": (1024, 3, 16, 16), "patch_embed.proj.bias": (1024,)})
    expected.update({"decoder_pos_embed": (1, 197, 512), "decoder_embed.weight": (512, 1024)})
    expected.update({"decoder_embed.bias": (512,), "decoder_pred.weight": (768, 512), "decoder_pred.bias": (768,)})
    for norm, d in (("norm", 1024), ("decoder_norm", 512)):
        expected.update({f"{norm}.weight": (d,), f"{norm}.bias": (d,)})
    for blocks, depth, d in (("blocks", 24, 1024), ("decoder_blocks", 8, 512)):
        for index in range(depth):
            layers = {"norm1": (d,), "norm2": (d,), "attn.qkv": (3 * d, d), "attn.proj": (d, d)}
            layers.update({"mlp.fc1": (4 * d, d), "mlp.fc2": (d, 4 * d)})
            for layer, shape in layers.items():
                expected[f"{blocks}.{index}.{layer}.weight"] = shape
                expected[f"{blocks}.{index}.{layer}.bias"] = shape[:1]
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == expected


@pytest.mark.parametrize("normalised", [False, True])
def test_the_loss_is_that_of_a_naive_loop(normalised):
    model = tiny(norm_pix_loss=normalised, mask_ratio=0.6)
    loss, prediction, mask = model(images(), noise())
    pixels, total, masked = images().numpy().astype(np.float64), 0.0, 0
    for n, ty, tx in np.ndindex(4, 4, 4):
        if not mask[n, ty * 4 + tx]:
            continue
        patch = pixels[n, :, ty * 4 : ty * 4 + 4, tx * 4 : tx * 4 + 4].transpose(1, 2, 0).reshape(-1)
        if normalised:
            mean = patch.sum() / len(patch)
            variance = ((patch - mean) ** 2).sum() / (len(patch) - 1)
            patch = (patch - mean) / math.sqrt(variance + 1e-6)
        guess = prediction[n, ty * 4 + tx].detach().numpy().astype(np.float64)
        total, masked = total + ((guess - patch) ** 2).mean(), masked + 1
    assert masked == 4 * (16 - 6)
    assert loss.item() == pytest.approx(total / masked, rel=1e-6)


def test_patch_statistics_invert_the_normalisation():
    model = tiny(norm_pix_loss=True)
    patches = patchify(images(), 4)
    mean, deviation = patch_statistics(patches)
    torch.testing.assert_close(model.targets(patches) * deviation + mean, patches)
    torch.testing.assert_close(model.targets(patches).mean(-1), torch.zeros(4, 16), rtol=0, atol=1e-6)
    assert model.targets(torch.ones(1, 1, 48)).isfinite().all()  # a patch of one colour


@pytest.mark.parametrize("normalised", [False, True])
def test_the_loss_alone_is_the_same_with_the_same_gradients(normalised):
    whole, alone = (tiny(norm_pix_loss=normalised) for _ in range(2))
    loss, *_ = whole(images(), noise())
    only = alone(images(), noise(), loss_only=True)
    torch.testing.assert_close(only, loss, rtol=1e-6, atol=0)
    loss.backward()
    only.backward()
    for (name, one), other in zip(whole.named_parameters(), alone.parameters()):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_the_loss_alone_predicts_masked_patches_only():
    model, seen = tiny(), []
    model.decoder_pred.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape)))
    model(images(), noise(), loss_only=True)
    model(images(), noise())
    assert seen == [(4, 12, 48), (4, 16, 48)]


def test_one_hot_matrices_do_what_noise_does():
    by_index, by_matrix = tiny(norm_pix_loss=True), tiny(norm_pix_loss=True)
    keep = one_hot(noise(), by_index.config.visible)
    expected, found = by_index(images(), noise()), by_matrix(images(), keep=keep)
    for one, other in zip(expected, found):
        assert torch.equal(one, other)
    assert torch.equal(by_matrix(images(), keep=keep, loss_only=True), found[0])
    expected[0].backward()
    found[0].backward()
    for (name, one), other in zip(by_index.named_parameters(), by_matrix.parameters()):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-7, msg=name)


def test_the_encoder_sees_visible_patches_only():
    """Neither its inputs nor its outputs know anything of what is masked."""
    model, tokens = tiny(), []
    model.blocks[0].register_forward_hook(lambda module, args, out: tokens.append(tuple(out.shape)))
    embedded = []
    model.patch_embed.register_forward_hook(lambda module, args, out: embedded.append(tuple(out.shape)))
    prediction, mask = model(images(), noise())[1:]
    assert tokens == [(4, 1 + 4, 24)]
    assert embedded == [(4, 4, 24)]
    changed = patchify(images(), 4)
    changed[mask == 1] = torch.nan
    other = changed.reshape(4, 4, 4, 4, 4, 3).permute(0, 5, 1, 3, 2, 4).reshape(4, 3, 16, 16)
    assert torch.equal(model(other, noise())[1], prediction)
    changed = images()
    changed[0] += 1
    assert not torch.equal(model(changed, noise())[1][0], prediction[0])


def test_masks_are_drawn_anew_unless_noise_is_given():
    model = tiny()
    assert torch.equal(model(images(), noise())[2], select(noise(), 4).mask)
    torch.manual_seed(5)
    first, second = (model(images())[2] for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    assert torch.equal(model(images())[2], first)
    assert torch.equal(first.sum(1), torch.full((4,), 12.0))


def test_samples_do_not_mix():
    model = tiny()
    together = model(images(), noise())[1]
    alone = torch.cat([model(image[None], u[None])[1] for image, u in zip(images(), noise())])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("height", "width", "channels"), [(8, 24, 3), (16, 16, 1), (12, 4, 5)])
def test_rectangular_images_of_any_channels(height, width, channels):
    patches = height * width // 16
    model = tiny(image_size=(height, width), in_channels=channels, mask_ratio=0.5)
    u = noise(patches=patches)
    loss, prediction, mask = model(images(4, height, width, channels), u)
    assert prediction.shape == (4, patches, 16 * channels)
    assert mask.shape == (4, patches)
    assert loss.isfinite()


def test_features_without_masking():
    model = tiny()
    everything = model.encode(images())
    assert everything.shape == (4, 17, 24)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0)).expand(4, -1)
    shuffled = model.encode(images(), order)
    torch.testing.assert_close(shuffled[:, 0], everything[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shuffled[:, 1:], everything[:, 1:][:, order[0]], rtol=1e-4, atol=1e-5)
    assert model.encode(images(), order[:, :3]).shape == (4, 4, 24)


def test_every_parameter_gets_a_gradient_and_tables_get_none():
    model = tiny()
    model(images(), noise())[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert {name for name, _ in model.named_buffers()} == {"pos_embed", "decoder_pos_embed"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_follows_float32_and_its_loss_is_float32(dtype):
    expected = tiny()(images(), noise())
    model = tiny().to(dtype)
    loss, prediction, _ = model(images(), noise())  # images keep their precision for the target
    assert loss.dtype == torch.float32
    assert prediction.dtype == dtype
    torch.testing.assert_close(loss, expected[0], rtol=0.01, atol=0)
    torch.testing.assert_close(prediction.float(), expected[1], rtol=0.1, atol=0.05)
    assert torch.equal(model(images(), keep=one_hot(noise(), 4, dtype))[0], loss)


def test_autocast_follows_float32():
    model = tiny()
    expected = model(images(), noise())[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(images(), noise(), loss_only=True)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.01, atol=0)


@pytest.mark.parametrize("loss_only", [False, True])
def test_compiles_without_a_break(loss_only):
    model = tiny(norm_pix_loss=True, depth=1, decoder_depth=1)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
    expected, found = (one(images(), noise(), loss_only=loss_only) for one in (model, compiled))
    torch.testing.assert_close(found, expected)
    (found if loss_only else found[0]).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_initial_weights():
    model = tiny(width=96, mlp_width=192, decoder_width=64, depth=4)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            limit = math.sqrt(6 / (layer.in_features + layer.out_features))
            assert 0.95 * limit < layer.weight.abs().max() <= limit, name
            assert not layer.bias.any(), name
        elif isinstance(layer, nn.LayerNorm):
            assert torch.equal(layer.weight, torch.ones_like(layer.weight)), name
            assert not layer.bias.any(), name
            assert layer.eps == 1e-6
    patch, limit = model.patch_embed.proj, math.sqrt(6 / (96 + 48))
    assert 0.95 * limit < patch.weight.abs().max() <= limit
    assert 0 < patch.bias.abs().max() <= 1 / math.sqrt(48)
    for token in (model.cls_token, model.mask_token):
        assert token.std().item() == pytest.approx(0.02, rel=0.3)


def test_parts_can_be_placed_one_by_one():
    model, called = tiny(), []
    for name, part in model.named_modules():
        if name.count(".") <= 1 and not isinstance(part, nn.ModuleList) and not name.endswith("proj"):
            part.register_forward_hook(lambda module, args, out, name=name: called.append(name))
    model(images(), noise())
    encoder = ["patch_embed", "blocks.0", "blocks.1", "norm"]
    decoder = ["decoder_embed", "decoder_blocks.0", "decoder_blocks.1", "decoder_norm", "decoder_pred"]
    assert called == [*encoder, *decoder, ""]


def test_sizes_override_the_name():
    model = tiny(layer_norm_eps=1e-5, gelu="tanh")
    assert dataclasses.asdict(model.config).items() >= {**TINY, "image_size": (16, 16), "gelu": "tanh"}.items()
    assert {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)} == {1e-5}


def test_the_gelu_is_used_in_encoder_and_decoder():
    erf, tanh = tiny(), tiny(gelu="tanh")
    assert {module.kind for module in tanh.modules() if hasattr(module, "kind")} == {"tanh"}
    one, other = (model(images(), noise())[1] for model in (erf, tanh))
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, other, rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mae_vit_base_patch_16"}, "did you mean 'mae_vit_base_patch16'"),
        ({"name": "resnet"}, "choose one of mae_vit_base_patch16"),
        ({"widht": 24}, "unknown model size 'widht'; did you mean 'width'"),
        ({"num_classes": 24}, "unknown model size 'num_classes'"),
        ({"image_size": 18}, "18×18 is not a multiple of the patch size 4"),
        ({"patch_size": 0}, "patch_size is at least 1, not 0"),
        ({"decoder_depth": 0}, "decoder_depth is at least 1, not 0"),
        ({"heads": 5}, "width 24 is not divisible by 5 heads"),
        ({"decoder_heads": 5}, "decoder width 16 is not divisible by 5 heads"),
        ({"width": 27}, "a multiple of 4, not 27"),
        ({"gelu": "quick"}, "choose one of erf, tanh"),
        ({"mask_ratio": 0.97}, r"mask_ratio 0.97 of 16 patches leaves none visible"),
        ({"mask_ratio": 0.0}, "none masked"),
        ({"mask_ratio": 1.0}, "none visible"),
    ],
)
def test_impossible_models_are_refused(arguments, message):
    name = arguments.pop("name", "mae_vit_base_patch16")
    with pytest.raises(ValueError, match=message):
        create_model(name, **{**TINY, **arguments})


def test_the_default_is_the_base_model():
    config = MAEConfig()
    assert (config.grid, config.patches, config.visible) == ((14, 14), 196, 49)
    with torch.device("meta"):
        assert create_model("mae_vit_base_patch16").config == config
