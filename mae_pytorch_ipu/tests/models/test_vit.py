import math

import pytest
import timm
import torch
from torch import nn

from models import create_model
from models.layers import gelu

TINY = {"image_size": 16, "patch_size": 4, "width": 24, "depth": 3, "heads": 3, "mlp_width": 48}


def tiny(num_classes=5, **sizes):
    torch.manual_seed(0)
    return create_model("vit_base_patch16", num_classes=num_classes, **{**TINY, **sizes})


def images(batch=4, height=16, width=16, seed=1):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def randomised(model):
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "keys", "parameters"),
    [
        ("vit_base_patch16", 152, 86_567_656),
        ("vit_large_patch16", 296, 304_326_632),
        ("vit_huge_patch14", 392, 632_045_800),
    ],
)
def test_keys_and_parameters_of_the_published_fine_tuned_models(name, keys, parameters):
    for global_pool, norm in ((True, "fc_norm"), (False, "norm")):
        with torch.device("meta"):
            state = create_model(name, global_pool=global_pool).state_dict()
        assert len(state) == keys
        assert sum(tensor.numel() for tensor in state.values()) == parameters
        assert {key for key in state if key.startswith(("norm", "fc_norm"))} == {f"{norm}.weight", f"{norm}.bias"}


@pytest.mark.parametrize("global_pool", [True, False])
@pytest.mark.parametrize("kind", ["erf", "tanh"])
def test_logits_equal_timms(global_pool, kind):
    pool, act = ("avg" if global_pool else "token"), ("gelu" if kind == "erf" else "gelu_tanh")
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3, "mlp_ratio": 2}
    theirs = timm.create_model("vit_base_patch16_224", num_classes=5, global_pool=pool, act_layer=act, **sizes)
    ours = tiny(global_pool=global_pool, gelu=kind).eval()
    ours.load_state_dict(randomised(theirs).state_dict())
    assert ours(images()).abs().max() > 0.1
    torch.testing.assert_close(ours(images()), theirs(images()), rtol=1e-5, atol=1e-5)


def test_a_linear_probe_normalises_features_of_the_frozen_norm():
    for global_pool in (False, True):
        model = tiny(linear_probe=True, global_pool=global_pool).train()
        assert {name for name, _ in model.named_parameters() if "norm." in name} == {"norm.weight", "norm.bias"}
        assert set(dict(model.head.named_parameters())) == {"1.weight", "1.bias"}  # the normalisation has no weights
        with torch.no_grad():
            model.head[1].weight.normal_()
        features = tiny(0, global_pool=False)
        features.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("head")})
        x = features.patch_embed.proj(images()).flatten(2).transpose(1, 2)
        x = torch.cat((features.cls_token.expand(4, -1, -1), x), 1) + features.pos_embed
        for block in features.blocks:
            x = block(x)
        x = features.norm(x)
        x = x[:, 1:].mean(1) if global_pool else x[:, 0]
        x = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-6).sqrt()
        expected = x @ model.head[1].weight.T + model.head[1].bias
        torch.testing.assert_close(model(images()), expected, rtol=1e-3, atol=1e-4)
        assert not torch.equal(model.eval()(images()), expected)  # running statistics


def test_rectangular_images_of_any_channels():
    model = tiny(image_size=(8, 24), in_channels=1)
    assert model.pos_embed.shape == (1, 1 + 2 * 6, 24)
    assert model(images(height=8, width=24)[:, :1]).shape == (4, 5)
    assert tiny(0)(images()).shape == (4, 24)


def test_positions_are_trained_here():
    model = tiny()
    model(images()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert "pos_embed" in dict(model.named_parameters())


def test_the_head_starts_small():
    for linear_probe, std in ((False, 2e-5), (True, 0.01)):
        model = tiny(300, width=96, heads=3, linear_probe=linear_probe, global_pool=not linear_probe)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        head = model.head[1] if linear_probe else model.head
        with torch.no_grad():
            head.bias.fill_(3)
            if linear_probe:
                model.head[0].running_mean.fill_(3)
        model.reset_head()
        assert head.weight.std().item() == pytest.approx(std, rel=0.05)
        changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
        assert changed == ["head.1.weight" if linear_probe else "head.weight"]


def test_training_from_scratch_starts_as_timm_does():
    model = tiny(300, width=96, mlp_width=192, image_size=32)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05), name
            assert not layer.bias.any(), name
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_gelus_follow_their_formulas(device, monkeypatch):
    """On a device that traces the exact one is written out, and is the same."""
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    exact = torch.tensor([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()], dtype=torch.float64)
    if device == "meta":
        assert gelu(x.to("meta"), "erf").shape == x.shape

        class Traced(torch.Tensor):
            device = torch.device("meta")

        found = gelu(x.as_subclass(Traced), "erf").as_subclass(torch.Tensor)
    else:
        found = gelu(x, "erf")
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-15)
    tanh = x * 0.5 * (1 + torch.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))
    torch.testing.assert_close(gelu(x, "tanh"), tanh, rtol=1e-12, atol=1e-15)
    assert 4e-4 < (tanh - exact).abs().max() < 4.8e-4


def test_drop_path_grows_linearly_over_the_blocks_and_cuts_both_branches():
    model = tiny(depth=4, drop_path=0.3)
    assert [block.drop_path.probability for block in model.blocks] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert tiny(depth=1, drop_path=0.3).blocks[0].drop_path.probability == 0
    x = torch.randn(3, 17, 24)
    assert torch.equal(tiny(depth=2, drop_path=0.999999).train().blocks[1](x), x)
    regularised = tiny(drop_path=0.5)
    assert not torch.equal(regularised.train()(images()), regularised(images()))
    assert torch.equal(regularised.eval()(images()), tiny().eval()(images()))


def test_attention_maps_are_what_the_model_attends_with():
    model = randomised(tiny())
    maps = model.attention_maps(images())
    assert maps.shape == (4, 3, 3, 17, 17)
    torch.testing.assert_close(maps.sum(-1), torch.ones(4, 3, 3, 17))
    x = model.patch_embed.proj(images()).flatten(2).transpose(1, 2)
    x = model.blocks[0].norm1(torch.cat((model.cls_token.expand(4, -1, -1), x), 1) + model.pos_embed)
    values = model.blocks[0].attn.project(x)[2]
    gathered = (maps[:, 0] @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(model.blocks[0].attn.proj(gathered), model.blocks[0].attn(x), rtol=1e-4, atol=1e-5)


def test_compiles_without_a_break():
    model = tiny(drop_path=0.2, depth=2)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for module in (model.eval(), model.train()):
        torch.manual_seed(3)
        expected = module(images())
        torch.manual_seed(3)
        torch.testing.assert_close(compiled(images()), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_follows_float32(dtype):
    expected = tiny().eval()(images())
    logits = tiny().to(dtype).eval()(images())
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_ratio": 0.5}, "unknown model size 'mask_ratio'"),
        ({"num_classes": -1}, "num_classes is at least 0, not -1"),
        ({"drop_path": 1.0}, "drop_path is a probability below 1"),
        ({"heads": 7}, "width 24 is not divisible by 7 heads"),
    ],
)
def test_impossible_models_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)
