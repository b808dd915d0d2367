import math

import pytest
import timm
import torch
from torch import nn

from models import SIZES, create_model

TINY = {"image_size": 16, "patch_size": 4, "width": 24, "depth": 3, "heads": 3, "mlp_width": 40}
HYBRID = {"image_size": 32, "patch_size": 1, "stages": (2, 1), "resnet_width": 32}


def tiny(name="ViT-B_16", num_classes=5, **sizes):
    torch.manual_seed(0)
    return create_model(name, num_classes=num_classes, **{**TINY, **sizes})


def images(batch=4, side=16):
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "side", "parameters"),
    [
        ("ViT-B_16", 384, 86_859_496),
        ("ViT-B_32", 384, 88_297_192),
        ("ViT-L_16", 384, 304_715_752),
        ("ViT-L_32", 384, 306_632_680),
        ("ViT-H_14", 378, 632_651_240),  # a grid of 27×27
        ("ViT-H_14", 224, 632_045_800),
    ],
)
def test_parameter_counts_of_the_published_models(name, side, parameters):
    with torch.device("meta"):
        model = create_model(name, image_size=side)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_the_hybrid_has_as_many_parameters_as_timms():
    with torch.device("meta"):
        ours = create_model("R50-ViT-B_16", image_size=384)
        theirs = timm.create_model("vit_base_r50_s16_384")
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert ours.config.grid == (24, 24)


def test_heads_of_the_published_models():
    assert {name: SIZES[name]["heads"] for name in SIZES if name != "testing"} == {
        "ViT-B_16": 12,
        "ViT-B_32": 12,
        "ViT-L_16": 16,
        "ViT-L_32": 16,
        "ViT-H_14": 16,
        "R50-ViT-B_16": 12,
    }
    assert create_model("testing", image_size=16).config.dropout == 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "ViT-B-16"}, "did you mean 'ViT-B_16'"),
        ({"name": "mixer"}, "choose one of ViT-B_16"),
        ({"widht": 24}, "unknown model size 'widht'; did you mean 'width'"),
        ({"image_size": 18}, "18×18 is not a multiple of the patches' 4 pixels: change it, to 16 for instance"),
        ({"name": "ViT-H_14", "image_size": 384, "patch_size": 14}, "384×384 .* to 378 for instance"),
        ({"image_size": 2}, "not a multiple"),
        ({"patch_size": 0}, "patch_size is at least 1, not 0"),
        ({"heads": 5}, "width 24 is not divisible by 5 heads"),
        ({"dropout": 1.0}, "dropout is a probability"),
        ({"attention_dropout": -0.1}, "attention_dropout is a probability"),
        ({"stages": (1, 0)}, "make no ResNet"),
        ({"stages": (1,), "resnet_width": 33}, "make no ResNet: give units per stage and a multiple of 32"),
        ({"stages": (1, 1), "image_size": 16}, "16×16 is not a multiple of the patches' 32 pixels"),
    ],
)
def test_impossible_models_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


@pytest.mark.parametrize("sizes", [{}, HYBRID])
def test_every_parameter_gets_a_gradient(sizes):
    model = tiny(attention_dropout=0.1, **sizes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gn3.weight"):  # starts at zero
                parameter.fill_(1)
    model(images(side=model.config.image_size[0])).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_last_block_computes_what_all_of_it_would():
    """The short cut to the class token against the whole last block, in outputs and gradients."""
    results = []
    for short in (True, False):
        model = tiny().eval()
        if short:
            logits = model(images())
        else:
            x = model.embeddings(images())
            for block in model.blocks:
                x = block(x)
            logits = model.head(model.norm(x)[:, 0])
        logits.square().sum().backward()
        results.append([logits, *[parameter.grad for parameter in model.parameters()]])
    for first, second in zip(*results):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_only_the_class_token_reaches_the_last_mlp():
    model, seen = tiny(), []
    for block in model.blocks:
        block.mlp.register_forward_hook(lambda module, args, out: seen.append(out.shape[1]))
    model(images())
    assert seen == [17, 17, 1]


def test_samples_do_not_mix():
    for sizes in ({}, HYBRID):
        model = tiny(**sizes).eval()
        pictures = images(side=model.config.image_size[0])
        together = model(pictures)
        alone = torch.cat([model(image[None]) for image in pictures])
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_dropout_stands_after_the_positions_and_twice_in_the_mlp():
    """Where nearly all is dropped, what is left tells the places."""
    gone = 1 - 1e-9
    x = torch.randn(2, 17, 24)
    model = tiny(dropout=gone).train()
    assert not model.embeddings(images()).any()
    assert not model.blocks[0].mlp(x).any()  # the one at its end; the one after the GELU is counted below
    block = model.blocks[0]
    torch.testing.assert_close(block(x), x + block.attention(block.norm1(x)))  # none after attention by that rate
    calls = []
    block.mlp.dropout.register_forward_hook(lambda module, args, out: calls.append(args[0].shape[-1]))
    block.mlp(x)
    assert calls == [40, 24]
    model = tiny(dropout=0.0, attention_dropout=gone).train()
    assert not model.blocks[0].attention(x).any()
    assert model.blocks[0].mlp(x).any()


@pytest.mark.parametrize("kind", ["dropout", "attention_dropout"])
def test_regularisation_only_in_training(kind):
    plain, regularised = tiny(dropout=0.0).eval(), tiny(**{"dropout": 0.0, kind: 0.5})
    assert not torch.equal(regularised.train()(images()), regularised(images()))
    assert torch.equal(regularised.eval()(images()), plain(images()))


def test_attention_maps_are_what_the_model_attends_with():
    model = tiny().eval()
    maps = model.attention_maps(images())
    assert maps.shape == (4, 3, 3, 17, 17)
    torch.testing.assert_close(maps.sum(-1), torch.ones(4, 3, 3, 17))
    block = model.blocks[0]
    x = block.norm1(model.embeddings(images()))
    values = block.attention.project(x)[2]
    gathered = (maps[:, 0] @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(block.attention.proj(gathered), block.attention(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [{}, HYBRID])
def test_compiles_without_a_break(sizes):
    model = tiny(attention_dropout=0.1, **sizes)
    pictures = images(side=model.config.image_size[0])
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=False)
    torch.testing.assert_close(compiled.eval()(pictures), model.eval()(pictures))
    torch.manual_seed(3)
    first = compiled.train()(pictures)
    torch.manual_seed(3)
    assert torch.equal(compiled(pictures), first)


@pytest.mark.parametrize("sizes", [{}, HYBRID])
def test_autocast_follows_float32(sizes):
    model = tiny(**sizes).eval()
    pictures = images(side=model.config.image_size[0])
    expected = model(pictures)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(pictures)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.05)


def test_fresh_weights():
    model = tiny(width=96, mlp_width=192, num_classes=50)
    for name, layer in model.blocks[0].named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        fan_out = layer.out_features // 3 if name.endswith("qkv") else layer.out_features  # three layers in one
        limit = math.sqrt(6 / (layer.in_features + fan_out))  # Glorot & Bengio 2010, equation 16
        assert 0.97 * limit < layer.weight.abs().max() <= limit, name
        assert layer.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.05), name
        if "mlp" in name:
            assert layer.bias.std().item() == pytest.approx(1e-6, rel=0.2), name
        else:
            assert not layer.bias.any(), name
    assert not model.embeddings.class_token.any()
    assert not model.embeddings.positions.any()
    assert model.head.weight.any()


def test_reset_head_zeroes_the_head_only():
    model = tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.reset_head()
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["head.weight", "head.bias"]
    assert not model.head.weight.any()
