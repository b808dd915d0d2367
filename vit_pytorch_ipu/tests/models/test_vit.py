import dataclasses
import math

import pytest
import timm
import torch
from torch import nn

from models import SIZES, create_model

TINY = {"image_size": 16, "patch_size": 4, "width": 24, "depth": 3, "heads": 3, "mlp_width": 40}


def tiny(name="vit_tiny_patch16_224", num_classes=5, **sizes):
    torch.manual_seed(0)
    return create_model(name, num_classes=num_classes, **{**TINY, **sizes})


def images(batch=4, height=16, width=16, seed=1):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [
        ({"num_classes": 0}, 85_798_656),
        ({"num_classes": 1000}, 86_567_656),
        ({"num_classes": 10}, 85_806_346),
        ({"num_classes": 21843}, 102_595_923),
        ({"num_classes": 1000, "representation_size": 768}, 87_158_248),
    ],
)
def test_parameter_counts_of_the_document(sizes, parameters):
    with torch.device("meta"):
        model = create_model("vit_base_patch16_224", **sizes)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_timm(name):
    with torch.device("meta"):
        ours, theirs = create_model(name, num_classes=7), timm.create_model(name, num_classes=7)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert ours.config.heads == theirs.blocks[0].attn.num_heads


def test_logits_have_the_batch_and_the_classes():
    assert tiny()(images()).shape == (4, 5)
    assert tiny(num_classes=0)(images()).shape == (4, 24)
    assert tiny(representation_size=7)(images()).shape == (4, 5)


def test_rectangular_images():
    model = tiny(image_size=(8, 24))
    assert model.embeddings.positions.shape == (1, 1 + 2 * 6, 24)
    assert model(images(height=8, width=24)).shape == (4, 5)


def test_sizes_override_the_name():
    config = tiny("vit_huge_patch14_224", layer_norm_eps=1e-5, hidden_dropout=0.1).config
    assert dataclasses.asdict(config).items() >= {**TINY, "image_size": (16, 16), "layer_norm_eps": 1e-5}.items()
    assert {module.eps for module in tiny(layer_norm_eps=1e-5).modules() if isinstance(module, nn.LayerNorm)} == {1e-5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vit_base_patch_16_224"}, "did you mean 'vit_base_patch16_224'"),
        ({"name": "resnet"}, "choose one of vit_tiny"),
        ({"widht": 24}, "unknown model size 'widht'; did you mean 'width'"),
        ({"image_size": 18}, "18×18 is not a multiple of the patch size 4"),
        ({"image_size": 0}, "not a multiple"),
        ({"patch_size": 0}, "patch_size is at least 1, not 0"),
        ({"heads": 5}, "width 24 is not divisible by 5 heads"),
        ({"hidden_dropout": 1.0}, "hidden_dropout is a probability"),
        ({"drop_path": -0.1}, "drop_path is a probability"),
        ({"init": "zeros"}, "choose one of finetune, pretrain"),
    ],
)
def test_impossible_models_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


@pytest.mark.parametrize("representation_size", [None, 7])
def test_every_parameter_gets_a_gradient(representation_size):
    model = tiny(representation_size=representation_size, hidden_dropout=0.1, attention_dropout=0.1, drop_path=0.1)
    model(images()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_mlp_has_the_exact_gelu():
    mlp = tiny().blocks[0].mlp
    x = torch.linspace(-20, 20, 5 * 24).reshape(5, 24)
    hidden = mlp.fc1(x)
    expected = mlp.fc2(hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2)
    torch.testing.assert_close(mlp(x), expected, rtol=1e-5, atol=1e-6)


def test_dropout_after_the_gelu_has_a_field_of_its_own():
    """A dead MLP in training, where everything that the GELU lets through is dropped with near certainty."""
    model = tiny(depth=1, gelu_dropout=1 - 1e-9)
    x = torch.randn(2, 17, 24)
    mlp = model.blocks[0].mlp
    assert torch.equal(mlp.train()(x), mlp.fc2.bias.expand_as(x))
    assert torch.equal(mlp.eval()(x), tiny(depth=1).blocks[0].mlp(x))
    assert tiny(hidden_dropout=0.5).blocks[0].mlp.dropout.p == 0


def test_samples_do_not_mix():
    model = tiny().eval()
    together = model(images())
    alone = torch.cat([model(image[None]) for image in images()])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_only_the_class_token_is_classified_before_a_tanh_layer():
    model = tiny(representation_size=7).eval()
    x = model.embeddings(images())
    for block in model.blocks:
        x = block(x)
    mean, variance = x[:, 0].mean(-1, keepdim=True), x[:, 0].var(-1, keepdim=True, unbiased=False)
    token = (x[:, 0] - mean) / (variance + 1e-6).sqrt() * model.norm.weight + model.norm.bias
    hidden = torch.tanh(token @ model.representation.weight.T + model.representation.bias)
    logits = hidden @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(images()), logits, rtol=1e-5, atol=1e-6)


def test_drop_path_grows_linearly_over_the_blocks():
    assert [block.drop_path.probability for block in tiny(depth=4, drop_path=0.3).blocks] == pytest.approx(
        [0.0, 0.1, 0.2, 0.3]
    )
    assert tiny(depth=1, drop_path=0.3).blocks[0].drop_path.probability == 0


def test_drop_path_cuts_both_branches():
    block = tiny(depth=2, drop_path=0.999999).train().blocks[1]
    x = torch.randn(3, 17, 24)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("kind", ["hidden_dropout", "attention_dropout", "drop_path"])
def test_regularisation_only_in_training(kind):
    plain, regularised = tiny().eval(), tiny(**{kind: 0.5})
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


def test_parts_can_be_placed_one_by_one():
    model, called = tiny(), []
    parts = {"embeddings": model.embeddings, "norm": model.norm, "head": model.head}
    parts.update({f"block {i}": block for i, block in enumerate(model.blocks)})
    for name, part in parts.items():
        part.register_forward_hook(lambda module, args, out, name=name: called.append(name))
    model(images())
    assert called == ["embeddings", "block 0", "block 1", "block 2", "norm", "head"]


def test_compiles_without_a_break():
    model = tiny(hidden_dropout=0.1, attention_dropout=0.1, drop_path=0.2, representation_size=8)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for module in (model.eval(), model.train()):
        torch.manual_seed(3)
        expected = module(images())
        torch.manual_seed(3)
        torch.testing.assert_close(compiled(images()), expected)


def test_exports_with_any_batch_size():
    model = tiny().eval()
    exported = torch.export.export(model, (images(2),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(exported.module()(images(7)), model(images(7)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_follows_float32(dtype):
    expected = tiny().eval()(images())
    logits = tiny().to(dtype).eval()(images().to(dtype))
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.02)


def test_fine_tuning_starts_as_hugging_face_does():
    model = tiny(width=96, mlp_width=192, num_classes=50)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight")))), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.25 if parameter.numel() < 1000 else 0.05), name


def test_pretraining_starts_as_the_document_says():
    model = tiny(width=96, mlp_width=192, num_classes=50, representation_size=32, init="pretrain")
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        fan_out = layer.out_features // 3 if name.endswith("qkv") else layer.out_features
        xavier = math.sqrt(2 / (layer.in_features + fan_out))
        assert layer.weight.std().item() == pytest.approx(xavier, rel=0.05), name
        assert torch.equal(layer.bias, torch.full_like(layer.bias, -10.0 if name == "head" else 0.0)), name
    patch = model.embeddings.patch
    assert patch.weight.std().item() == pytest.approx(math.sqrt(2 / (96 * 4 * 4)), rel=0.05)
    assert 0 < patch.bias.abs().max() <= 1 / math.sqrt(3 * 4 * 4)
    assert not model.embeddings.class_token.any()
    assert model.embeddings.positions.std().item() == pytest.approx(0.02, rel=0.1)


def test_queries_keys_and_values_start_different():
    weight = tiny(init="pretrain").blocks[0].attention.qkv.weight
    q, k, v = weight.chunk(3)
    assert not torch.equal(q, k)
    assert not torch.equal(k, v)


def test_reset_head_draws_the_head_only():
    model = tiny(init="pretrain")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model.head.bias.fill_(3)
    model.reset_head()
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["head.weight"]
    assert torch.equal(model.head.bias, torch.full((5,), -10.0))
